# make quickstart | test | test-long | lint | bench | gpu-check      (PYTHON=python3.12 make ... chooses the interpreter)
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: quickstart test test-long lint bench gpu-check
.DELETE_ON_ERROR:

# torch first and alone: DeepSpeed's build looks for it. A stamp is newer than its requirements, so nothing installs twice.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; old = sys.version_info < (3, 11); sys.exit(old and "$(PYTHON) is too old: Python 3.11 or newer is needed (PYTHON=python3.12 make ...)")'
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	DS_BUILD_OPS=0 $(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-curate.txt $(VENV)/.installed
	DS_BUILD_OPS=0 $(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

quickstart: $(VENV)/.installed
	$(RUN) tools/prepare_data.py shakespeare
	test -e data/shakespeare_char_text_document.idx || $(RUN) tools/preprocess_data.py --input data/shakespeare.jsonl \
		--output-prefix data/shakespeare_char --tokenizer-type CharLevelTokenizer --append-eod
	$(RUN) deepy.py train.py configs/shakespeare.yml configs/2xcpu.yml
	$(RUN) tools/report.py logs/shakespeare --output logs/shakespeare/loss.png
	$(RUN) deepy.py generate.py configs/shakespeare.yml --set temperature=0.8 maximum_tokens=255 \
		sample_output_file=logs/shakespeare/sample.jsonl
	@$(RUN) -c 'import json; print("\nIt writes:\n\n" + json.loads(open("logs/shakespeare/sample.jsonl").readline())["text"])'

test: $(VENV)/.installed-dev
	$(RUN) -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# the exhaustive forms: hundreds of random kills, every pair of layouts. Hours.
test-long: $(VENV)/.installed-dev
	$(RUN) -m pytest -n 2 -m long

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

# ratios against the peers, kept by commit; on a quiet machine
bench: $(VENV)/.installed
	$(RUN) tools/bench.py train --json | $(RUN) tools/trend.py add benchmarks/ratios.jsonl
	$(RUN) tools/bench.py launch --json | $(RUN) tools/trend.py add benchmarks/ratios.jsonl
	$(RUN) tools/trend.py show benchmarks/ratios.jsonl

# on a machine with one CUDA GPU of 80 GB and its own torch build; needs nothing from the network. Each line takes less than ten minutes
gpu-check:
	$(PYTHON) -m pytest tests/gpu
	$(PYTHON) tools/bench.py train --device cuda --shape 125M 350M
	$(PYTHON) tools/bench.py train --device cuda --shape 1.3B
	$(PYTHON) tools/bench.py train --device cuda --shape 2.7B
