## make demo      a small study from audio to predictions (DEMO_ARGS: options of tools.demo)
## make test      lint, types, unit and integration tests, the examples of the docstrings (PYTEST_ARGS: pytest's options)
## make test-fast lint and the unit tests but the slow ones, within 90 s on 2 cores
## make bench     what can be timed without a corpus, within 20 minutes on 2 cores (docs/speed.md)
## make docs      this documentation as HTML in build/docs, with a reference from the docstrings; warnings are errors
## make mutants   break the code on purpose and see whether its tests notice (MUTANTS_ARGS: options of tools.mutants)
## make evidence  simulate how often intervals hold and tests err: the tables of docs/report.md (EVIDENCE_ARGS)
## make endurance kill each program at random moments, and see it end as if nothing had been (ENDURANCE_ARGS); then
##                10,000 cases of damage and odd input for each property test, others each time (hours)
## make hparams   compose hparams/ into the flat files of recipes/*/hparams
## make speechbrain-pr OUT=folder  compose what proposes the recipes to SpeechBrain; with SPEECHBRAIN_SOURCE, a checkout
##                of it, run its checks, too (SPEECHBRAIN_PR_ARGS=--run: and its recipe runner)
## make format    lay out the code and mend what ruff can mend
## make clean     delete .venv, caches and the demo's output (never results/)
##
## Everything runs in .venv, which the first call makes. PYTHON names the Python that makes it; TORCH_INDEX_URL,
## where torch comes from if not from pip's usual index (see tools/set_up.py).

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-fast bench docs mutants evidence endurance hparams speechbrain-pr format clean

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

demo: .venv/.ready
	$(BIN)/python -m tools.demo $(DEMO_ARGS)

test: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Files and folders of tests/unit that train, encode much or start programs, wherever they lie.
SLOW := student test_brains.py test_cli.py test_encoder.py test_evidence.py test_features.py test_iemocap_prepare.py \
    test_lesson_speech.py test_make_demo_corpus.py test_mini_hubert.py test_mutants.py test_pretraining.py test_report.py \
    test_reproducible.py test_runner.py test_set_up.py test_training_cost.py

test-fast: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit $(SLOW:%=--ignore-glob='*/%') $(PYTEST_ARGS)

# The others need a corpus, trained networks or packages that are not in .venv.
BENCH := gru roofline scaling mini_hubert speech_encoder prepare_msp_podcast first_prediction inference training_cost

bench: .venv/.ready
	set -e; for name in $(BENCH); do echo; echo "$$name"; $(BIN)/python -m benchmarks.$$name; done

docs: .venv/.ready
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/docs
	@echo "open build/docs/index.html"

mutants: .venv/.ready
	$(BIN)/python -m tools.mutants $(MUTANTS_ARGS)

evidence: .venv/.ready
	$(BIN)/python -m tools.evidence $(EVIDENCE_ARGS)

endurance: .venv/.ready
	$(BIN)/python -m tools.endurance $(ENDURANCE_ARGS)
	$(BIN)/python -m pytest -n 2 -m hypothesis --hypothesis-profile=endurance tests

hparams: .venv/.ready
	$(BIN)/python tools/build_hparams.py

speechbrain-pr: .venv/.ready
	$(BIN)/python -m tools.speechbrain_pr.compose $(OUT) $(SPEECHBRAIN_SOURCE:%=--source %)
ifdef SPEECHBRAIN_SOURCE
	$(BIN)/python -m tools.speechbrain_pr.check $(OUT) $(SPEECHBRAIN_SOURCE) $(SPEECHBRAIN_PR_ARGS)
endif

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .hypothesis .pytest_cache .ruff_cache .mypy_cache *.egg-info build dist demo docs/api
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamp comes last, so that a set-up which was cut short goes on at the next call.
.venv/.ready: setup.py tools/constraints.txt tools/set_up.py
	$(PYTHON) tools/set_up.py
	touch $@
