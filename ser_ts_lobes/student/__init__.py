"""A student as it is shared: loaded, predicting, exported."""

from ser_ts_lobes.lazy import give_names

__getattr__, __dir__, __all__ = give_names(
    __name__,
    hub="push",
    inference="Emotion EmotionRegressor Prediction Timeline",
    network="StudentNetwork load_network",
    onnx="export_onnx open_onnx run_onnx",
    page="make_page serve",
    public_models="load_regressor",
)
