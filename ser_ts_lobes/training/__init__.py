"""The method: losses, residuals, targets, features, datasets and the Brains that train."""

from ser_ts_lobes.lazy import give_names

__getattr__, __dir__, __all__ = give_names(
    __name__,
    brains="EmotionBrain StudentBrain TeacherBrain",
    checkpoints="Checkpointer",
    datasets="load_manifests load_teacher make_dataset make_datasets",
    distributed="GlobalBatches MixedBatches gather_batch",
    features="FrozenFeatures",
    fitting="learn_from_training_set",
    losses="ccc_loss embedding_distance_loss emotion_loss make_distance_loss soft_label_loss",
    pretraining="CPCBrain make_window_datasets prepare_audio_folder",
    reproducible="ReproducibleBrain",
    residuals="Residuals fit_residuals keep_mask",
    targets="TeacherTargets",
    trust="Trust trust_by_residual trust_by_spread",
    uncertainty="DropoutSpread compare_rules keep_surest",
)
