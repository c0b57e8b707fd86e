# Two commands: `make demo` does the main job, `make test` passes the tests. Each sets everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Threads that wait for each other by spinning crawl as soon as anything else runs: six times slower was measured.
export OMP_WAIT_POLICY ?= passive

.PHONY: setup demo edit exchange docs test lint types pytest

setup: $(INSTALLED)

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): setup.py pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# PyPI's torchvision is built for CUDA. Beside a torch without it, it does not import, and breaks what tries it.
	@$(BIN)/python -c 'import torchvision' 2>/dev/null || { \
		echo 'removing a torchvision that does not import beside this torch (LPIPS does not need it)'; \
		$(BIN)/pip uninstall --quiet --yes torchvision; }
	touch $@

# The main job, from images to a sampled megapixel. Each step is a command that a user would give; a step that is
# finished is not done again, and one that was stopped goes on where it was.
#   make demo                      on landscapes that it renders itself
#   make demo PHOTOS=some/folder   on photos; maps are used where PHOTOS/images and PHOTOS/maps are there
DEMO := runs/demo$(if $(PHOTOS),-$(notdir $(abspath $(PHOTOS))))
MAPS := $(if $(PHOTOS),$(wildcard $(PHOTOS)/maps),yes)
PRIOR := $(if $(MAPS),demo_prior,demo_prior_coordinates)
# At most two ranks, with a GPU each; two on a machine without GPUs, on its cores, of which the launcher then need not warn.
# They are counted once, by the first step that asks.
RANKS = $(eval RANKS := $(shell python -c 'import os, torch; gpus = min(torch.cuda.device_count(), 2); \
	print("" if gpus else "DS_ACCELERATOR=" + os.environ.get("DS_ACCELERATOR", "cpu"), f"deepspeed --num_gpus {gpus or 2}")') \
	--log_level error --module)$(RANKS)
RUNS = --set run_dir=$(DEMO)/$(1) --set 'train_data.shards=[$(DEMO)/$(2)/train]' --set 'val_data.shards=[$(DEMO)/$(2)/val]'
# Three samples of landscapes, so that it can be said how much of them is what their map says; of photos one.
COUNT := $(if $(PHOTOS),1,3)
FIRST = $$(ls $(1)/*.png | head -n 1)
# What a step took goes into a file, also when it is stopped.
timed = began=$$(date +%s); { $(2); }; code=$$?; echo "$(1) $$(($$(date +%s) - began))" >> $(DEMO)/seconds.txt; exit $$code
SAMPLE = smalti sample $(1)/prior $(1)/vqgan --seed 3 --count $(3) --batch $(3) --out $(2) \
	--size 1024x1024 --stride 4 --lanes 16 --prefill 4 --top-p 0.95 --guidance 2 --decode whole \
	$(if $(MAPS),--segmentation "$$(ls $(DEMO)/unseen/maps/* | head -n 1)")

ifneq ($(words $(PHOTOS)),$(if $(PHOTOS),1,0))
$(error PHOTOS=$(PHOTOS): make cannot take a path with spaces; name a link to it, such as ln -s "$(PHOTOS)" photos)
endif

demo: $(INSTALLED)
	@# Folders of photos with equal names have one folder of runs.
	@if [ -s $(DEMO)/packed.done ] && [ "$$(cat $(DEMO)/packed.done)" != '$(abspath $(PHOTOS))' ]; then \
		echo "$(DEMO) holds the demo on $$(cat $(DEMO)/packed.done); move it away, or rename the folder of photos" >&2; exit 2; fi
	@$(MAKE) --no-print-directory $(DEMO)/sampled-again.done $(if $(PHOTOS),,$(DEMO)/judged.done)
	@cmp $(call FIRST,$(DEMO)/samples) $(DEMO)/samples-of-export/*.png
ifeq ($(PHOTOS),)
	@python -m smalti.launch.demo.accuracy $(DEMO)/segmenter.pt $(DEMO)/images/maps $(DEMO)/rebuilt/reconstructions
	@python -m smalti.launch.demo.accuracy $(DEMO)/segmenter.pt $(DEMO)/unseen/maps $(DEMO)/samples
endif
	@smalti report $(DEMO)/vqgan $(DEMO)/prior --seconds $(DEMO)/seconds.txt \
		--images $(call FIRST,$(DEMO)/samples) $(if $(PHOTOS),,$(DEMO)/unseen/maps/*.png) --out $(DEMO)/report.html

$(DEMO)/packed.done:
	@mkdir -p $(DEMO)
ifeq ($(PHOTOS),)
	@echo '== rendering landscapes to learn from, and a map to sample by'
	@$(call timed,landscapes,python -m smalti.launch.demo.landscapes $(DEMO)/images && \
		python -m smalti.launch.demo.landscapes $(DEMO)/unseen --first 1000 --count 1 --maps-only)
endif
	@echo '== packing images into shards'
	@$(call timed,pack,smalti pack $(or $(PHOTOS),$(DEMO)/images) $(DEMO)/shards --val $(if $(PHOTOS),auto,4) \
		--minimum-side 256 --shard-count 5)
ifneq ($(PHOTOS),)
	@$(if $(MAPS),mkdir -p $(DEMO)/unseen/maps && tar -xf $(DEMO)/shards/val/shard-000000.tar -C $(DEMO)/unseen/maps --wildcards '*.segmentation.*')
endif
	@echo '$(abspath $(PHOTOS))' > $@

$(DEMO)/vqgan.done: $(DEMO)/packed.done
	@echo '== training the VQGAN, on two ranks, ZeRO 1'
	@$(call timed,VQGAN,$(RANKS) smalti.launch.train demo_vqgan $(call RUNS,vqgan,shards))
	@touch $@

$(DEMO)/encoded.done: $(DEMO)/vqgan.done
	@echo '== encoding the images'
	@$(call timed,encode,$(RANKS) smalti.launch.encode $(DEMO)/vqgan $(DEMO)/shards/train $(DEMO)/codes/train --tile 160 && \
		smalti encode $(DEMO)/vqgan $(DEMO)/shards/val $(DEMO)/codes/val --tile 160)
	@touch $@

$(DEMO)/prior.done: $(DEMO)/encoded.done
	@echo '== training the prior, on two ranks, ZeRO 2'
	@$(call timed,prior,$(RANKS) smalti.launch.train $(PRIOR) $(call RUNS,prior,codes) --set tokenizer=$(DEMO)/vqgan)
	@touch $@

$(DEMO)/sampled.done: $(DEMO)/prior.done
	@echo '== sampling with the sliding window'
	@$(call timed,sampling,$(call SAMPLE,$(DEMO),$(DEMO)/samples,$(COUNT)))
	@touch $@

$(DEMO)/sampled-again.done: $(DEMO)/sampled.done
	@echo '== exporting both stages, and sampling the same image from the exports'
	@$(call timed,export,for stage in vqgan prior; do \
		smalti export $(DEMO)/$$stage $(DEMO)/export/$$stage || exit; done; \
		$(call SAMPLE,$(DEMO)/export,$(DEMO)/samples-of-export,1))
	@touch $@

# A network that names the pixels of landscapes says how much of the images is what their maps say. It learns from many
# small ones, of which none is among those of the VQGAN, the prior and the sample.
$(DEMO)/judged.done: $(DEMO)/sampled.done
	@echo '== training a segmenter on other landscapes, to judge images by their maps'
	@$(call timed,judging,\
		python -m smalti.launch.demo.landscapes $(DEMO)/small/images --first 2000 --count 600 --size 128x160 && \
		smalti pack $(DEMO)/small/images $(DEMO)/small/shards --val 40 && \
		python -m smalti.launch.demo.segmenter $(DEMO)/small/shards $(DEMO)/segmenter.pt --steps 120 && \
		smalti reconstruct $(DEMO)/vqgan $(DEMO)/shards/val --out $(DEMO)/rebuilt)
	@touch $@

# Parts of landscapes made anew from edited label maps: an editor, its tokenizer and its guide, trained on landscapes that
# it renders, edits landscapes that none of them has seen, and a segmenter judges what was made. A step that is finished
# is not done again, and one that was stopped goes on where it was.
EDITING := runs/edit

edit: $(INSTALLED)
	@$(MAKE) --no-print-directory $(EDITING)/trained.done $(EDITING)/segmenter.pt
	@echo '== editing landscapes that are new to the editor'
	@python -m smalti.launch.demo.edits $(EDITING)/editor $(EDITING)/segmenter.pt $(EDITING)/edits

$(EDITING)/packed.done:
	@mkdir -p $(EDITING)
	@echo '== rendering and packing landscapes to learn from'
	@python -m smalti.launch.demo.landscapes $(EDITING)/images --count 2000 --size 128x160
	@smalti pack $(EDITING)/images $(EDITING)/shards --val 64
	@touch $@

$(EDITING)/segmenter.pt: $(EDITING)/packed.done
	@echo '== training the segmenter that judges edits'
	@python -m smalti.launch.demo.segmenter $(EDITING)/shards $@ --steps 500 --pasted 0.7

$(EDITING)/trained.done: $(EDITING)/packed.done
	@echo '== training the tokenizer, the guide and the editor'
	@for recipe in vqgan_editor_tiny editor_tiny_guide editor_tiny; do $(RANKS) smalti.launch.train $$recipe || exit; done
	@touch $@

# A small VQGAN and a small prior of classes, trained for a minute each and exported to every format that others load.
# The class of a landscape is its number modulo 4.
EXCHANGE := runs/exchange

exchange: $(INSTALLED)
	@$(MAKE) --no-print-directory $(EXCHANGE)/exported.done
	@ls -d $(EXCHANGE)/export/*

$(EXCHANGE)/packed.done:
	@mkdir -p $(EXCHANGE)
	python -m smalti.launch.demo.landscapes $(EXCHANGE)/images --count 24 --size 256x320
	ls $(EXCHANGE)/images/images | awk 'BEGIN { print "file,class" } { print $$0 "," NR % 4 }' > $(EXCHANGE)/classes.csv
	smalti pack $(EXCHANGE)/images $(EXCHANGE)/shards --val 4 --labels $(EXCHANGE)/classes.csv
	@touch $@

$(EXCHANGE)/trained.done: $(EXCHANGE)/packed.done
	smalti train exchange_vqgan --set run_dir=$(EXCHANGE)/vqgan
	smalti encode $(EXCHANGE)/vqgan $(EXCHANGE)/shards/train $(EXCHANGE)/codes/train
	smalti encode $(EXCHANGE)/vqgan $(EXCHANGE)/shards/val $(EXCHANGE)/codes/val
	smalti train exchange_prior --set run_dir=$(EXCHANGE)/prior
	@touch $@

$(EXCHANGE)/exported.done: $(EXCHANGE)/trained.done
	for format in smalti diffusers taming torch-export; do \
		smalti export $(EXCHANGE)/vqgan $(EXCHANGE)/export/vqgan-$$format --format $$format || exit; done
	for format in smalti transformers torch-export; do \
		smalti export $(EXCHANGE)/prior $(EXCHANGE)/export/prior-$$format --format $$format || exit; done
	@touch $@

# The pages of docs/ as a site in build/site, every link checked. Needs nothing else of the project.
docs: | $(BIN)/pip
	pip install --quiet --constraint constraints.txt mkdocs
	mkdocs build --strict --quiet
	@echo 'the site: file://$(CURDIR)/build/site/index.html'

lint: $(INSTALLED)
	ruff check .

types: $(INSTALLED)
	rm -rf build/typecheck build/lib
	pip install --quiet --no-deps --target build/typecheck .
	cd build/typecheck && mypy --config-file ../../pyproject.toml -p smalti

# The types take a minute of a core, which the tests leave idle about as long: most of them compute in one process.
test: lint
	@$(MAKE) --no-print-directory --jobs 2 types pytest

pytest: $(INSTALLED)
	MAKEFLAGS= CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 pytest
