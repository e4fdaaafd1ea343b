# Moebius. `make help` lists the targets.

VARIANT  ?= rel
BUILD    := build/$(VARIANT)
CC       ?= gcc
PREFIX   ?= /usr/local
PKG      := sqlite3 libcjson openblas libpcre2-8 libutf8proc
Q        := $(if $(V),,@)

# CUDA, NCCL and MPI are looked for; what is not there is left out, and the last line of `make` says so.
NVCC     ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc))
MPICC    ?= $(shell command -v mpicc)
# Objects of CUDA do not depend on the variant.
CUDA_HOME ?= $(if $(NVCC),$(patsubst %/bin/,%,$(dir $(NVCC))))
CUDA_ARCH ?= 90a
# NCCL's header; its library is loaded when ranks meet.
NCCL_HOME ?= $(if $(NVCC),$(patsubst %/include/nccl.h,%,$(firstword $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h))))
# SentencePiece models need libsentencepiece and a C++ compiler.
CXX      := $(if $(findstring clang,$(CC)),clang++,g++)
HAVE_SENTENCEPIECE := $(shell pkg-config --exists sentencepiece 2>/dev/null && command -v $(CXX))

CFLAGS_rel  := -O3 -g
CFLAGS_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan := -O1 -g -fsanitize=thread
# Programs are linked as C, which leaves out what the check of C++'s vptr calls.
CFLAGS_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=vptr -DFUZZING
CPPFLAGS += -I. -I$(BUILD)/gen -D_POSIX_C_SOURCE=200809L -DMOEBIUS_VERSION='"$(shell cat VERSION)"'
CFLAGS   += -std=c17 -Wall -Wextra -Wpedantic -Werror $(CFLAGS_$(VARIANT))
CFLAGS   += $(shell pkg-config --cflags $(PKG) 2>/dev/null)
CXXFLAGS += -std=c++17 -Wall -Wextra -Werror $(CFLAGS_$(VARIANT))
# OpenBLAS is loaded when something is computed with it (exec/cpu/blas.h).
LDLIBS   += $(filter-out -lopenblas,$(shell pkg-config --libs $(PKG) 2>/dev/null)) -lm -lpthread -ldl

MODULES  := base traces policies sim exec exec/arch exec/cpu exec/text analysis cli
SOURCES  := $(filter-out cli/main.c traces/extension%,$(wildcard $(MODULES:%=%/*.c)))
ifneq ($(HAVE_SENTENCEPIECE),)
SOURCES  := $(filter-out exec/text/sentencepiece_absent.c,$(SOURCES)) exec/text/sentencepiece.cc
LDLIBS   += -lsentencepiece -lstdc++
endif
ifneq ($(MPICC),)
$(if $(shell command -v $(MPICC)),,$(error MPICC=$(MPICC) is no program that can be run))
SOURCES  := $(filter-out base/processes_absent.c sim/sweep_mpi_absent.c,$(SOURCES))
CPPFLAGS += -DHAVE_MPI
# MPI's own wrapper compiles what calls it and links; only programs that need MPI load it.
WITH_MPI := OMPI_CC=$(CC) MPICH_CC=$(CC) $(MPICC)
LINK     := $(WITH_MPI) -Wl,--as-needed
else
SOURCES  := $(filter-out base/processes_mpi.c sim/sweep_mpi.c,$(SOURCES))
LINK     := $(CC)
endif
ifneq ($(NVCC),)
$(if $(shell command -v $(firstword $(NVCC))),,$(error NVCC=$(NVCC) is no program that can be run))
SOURCES  := $(filter-out cli/bench_gpu_absent.c,$(SOURCES)) $(wildcard exec/cuda/*.c)
CPPFLAGS += -DHAVE_CUDA -isystem $(CUDA_HOME)/include
LDLIBS   += -L$(CUDA_HOME)/lib64 -lcudart_static -lstdc++ -ldl -lrt
KERNELS  := $(patsubst %.cu,build/cuda/%.o,$(wildcard exec/cuda/*.cu))
else
SOURCES  := $(filter-out $(filter-out cli/bench_gpu.c cli/bench_gpu_absent.c,$(wildcard cli/bench_gpu*.c)),$(SOURCES))
endif
WITH_NCCL := $(and $(NVCC),$(NCCL_HOME))
ifneq ($(WITH_NCCL),)
$(if $(wildcard $(NCCL_HOME)/include/nccl.h),,$(error NCCL_HOME=$(NCCL_HOME) has no include/nccl.h))
SOURCES  := $(filter-out exec/ranks_absent.c,$(SOURCES))
CPPFLAGS += $(if $(filter /usr $(CUDA_HOME),$(NCCL_HOME)),,-isystem $(NCCL_HOME)/include)
else
SOURCES  := $(filter-out exec/cuda/nccl.c exec/cuda/rank_work.c exec/cuda/ranks.c,$(SOURCES))
endif
LEFT_OUT := $(if $(NVCC),,CUDA) $(if $(WITH_NCCL),,NCCL) $(if $(MPICC),,MPI) $(if $(HAVE_SENTENCEPIECE),,SentencePiece)
OBJECTS  := $(addprefix $(BUILD)/,$(addsuffix .o,$(basename $(SOURCES))))
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
SUPPORT  := $(patsubst tests/%.c,$(BUILD)/tests/%.o,$(filter-out tests/test_% tests/fuzz_%,$(wildcard tests/*.c)))
GPU_TESTS := $(if $(NVCC),$(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/gpu/test_*.c)))
GPU_TESTS := $(filter-out $(if $(WITH_NCCL),,%/test_ranks),$(GPU_TESTS))
GPU_SUPPORT := $(patsubst tests/%.c,$(BUILD)/tests/%.o,$(filter-out tests/gpu/test_%,$(wildcard tests/gpu/*.c)))
FUZZERS  := $(patsubst tests/%.c,build/fuzz/tests/%,$(wildcard tests/fuzz_*.c))
PROGRAM  := $(BUILD)/moebius

# The SQLite extension takes SQLite from its host, so it has its own objects and links nothing.
EXTENSION := $(BUILD)/moebius_sqlite.so
EXTENSION_SOURCES := $(wildcard traces/extension*.c) base/crc32c.c traces/f16.c traces/rowcrc.c traces/trace.c

.PHONY: all deps quickstart test test-gpu bench sanitize sanitize-gpu fuzz install clean help tests-built gpu-tests-built fuzzers-built FORCE
.DELETE_ON_ERROR:
.SECONDARY:

all: $(PROGRAM) $(EXTENSION) ## build the program (build/rel/moebius) and the SQLite extension
	@ln -sf rel/moebius build/moebius
	@ln -sf rel/moebius_sqlite.so build/moebius_sqlite.so
	@echo "built $(PROGRAM); left out: $(or $(strip $(LEFT_OUT)),nothing)"

# A missing package stops the build with the command that mends it.
$(BUILD)/.packages:
	@pkg-config --exists $(PKG) cmocka || { echo "moebius: build: packages are missing: run 'make deps'" >&2; exit 1; }
	@mkdir -p $(@D) && touch $@

deps: ## install the Debian packages that building and testing need
	tools/deps.sh

$(BUILD)/gen/schema_sql.h: traces/schema.sql
	@mkdir -p $(@D)
	$(Q)sed -e 's/--.*//' -e 's/[\\"]/\\&/g' -e 's/.*/"&\\n"/' $< > $@

# The commit that is built, which benchmarks name; changes only when it does.
$(BUILD)/gen/commit.h: FORCE
	@mkdir -p $(@D)
	@commit=$$(git describe --always --dirty --exclude '*' 2>/dev/null || echo unknown); \
	 echo "#define MOEBIUS_COMMIT \"$$commit\"" | cmp -s - $@ || echo "#define MOEBIUS_COMMIT \"$$commit\"" > $@

$(BUILD)/cli/origin.o: $(BUILD)/gen/commit.h

$(BUILD)/%.o: %.c $(BUILD)/.packages $(BUILD)/gen/schema_sql.h
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC   $<")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/base/processes_mpi.o $(BUILD)/sim/sweep_mpi.o: $(BUILD)/%.o: %.c $(BUILD)/.packages
	@mkdir -p $(@D)
	$(if $(V),,@echo "  MPI  $<")
	$(Q)$(WITH_MPI) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.cc $(BUILD)/.packages
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX  $<")
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c $< -o $@

build/cuda/%.o: %.cu
	@mkdir -p $(@D)
	$(if $(V),,@echo "  NVCC $<")
	$(Q)$(NVCC) -std=c++17 -O3 -I. -gencode arch=compute_$(CUDA_ARCH),code=sm_$(CUDA_ARCH) -Xcompiler -Wall,-Wextra,-Werror -Werror all-warnings -MMD -MP -MF $(@:.o=.d) -c $< -o $@

# Changes when the list of objects does: a source that went away, or a library that came.
$(BUILD)/.objects: FORCE
	@mkdir -p $(@D)
	@echo '$(OBJECTS) $(KERNELS) $(LINK)' | cmp -s - $@ || echo '$(OBJECTS) $(KERNELS) $(LINK)' >$@

$(BUILD)/libmoebius.a: $(OBJECTS) $(KERNELS) $(BUILD)/.objects
	$(Q)rm -f $@ && ar rcs $@ $(OBJECTS) $(KERNELS)

$(PROGRAM): $(BUILD)/cli/main.o $(BUILD)/libmoebius.a
	$(Q)$(LINK) $(CFLAGS) $^ $(LDLIBS) -o $@

$(BUILD)/pic/%.o: %.c $(BUILD)/.packages
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC   $< (extension)")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c $< -o $@

$(EXTENSION): $(EXTENSION_SOURCES:%.c=$(BUILD)/pic/%.o)
	$(Q)$(CC) $(CFLAGS) -shared $^ -lm -o $@

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(SUPPORT) $(BUILD)/libmoebius.a
	$(Q)$(LINK) $(CFLAGS) $^ -lcmocka $(LDLIBS) -o $@

$(BUILD)/tests/gpu/test_%: $(BUILD)/tests/gpu/test_%.o $(GPU_SUPPORT) $(SUPPORT) $(BUILD)/libmoebius.a
	$(Q)$(LINK) $(CFLAGS) -Wl,--as-needed $^ -lcmocka $(LDLIBS) -o $@

build/fuzz/tests/fuzz_%: build/fuzz/tests/fuzz_%.o build/fuzz/libmoebius.a
	$(Q)$(LINK) $(CFLAGS) -fsanitize=fuzzer $^ $(LDLIBS) -o $@

tests-built: $(PROGRAM) $(EXTENSION) $(TESTS)

gpu-tests-built: $(GPU_TESTS)

fuzzers-built: $(FUZZERS)

quickstart: ## record, replay, plan and validate with the model in models/
	@pkg-config --exists $(PKG) cmocka || $(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory all
	$(Q)tools/quickstart.sh build/moebius build/quickstart

test: ## run every test that needs no GPU
	@pkg-config --exists $(PKG) cmocka || $(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory all tests-built
	$(Q)tests/run.sh $(BUILD)

test-gpu: ## run the tests of the CUDA kernels; needs nvcc and a GPU
	@$(if $(NVCC),:,echo "moebius: test-gpu: nvcc is not here, so there is nothing to run" >&2; exit 1)
	$(Q)$(MAKE) --no-print-directory gpu-tests-built
	$(Q)for test in $(GPU_TESTS); do $$test || exit 1; done

bench: all ## measure replay, sweeps, recording, the forward pass and simulated time
	$(Q)$(PROGRAM) bench

sanitize: ## run the tests under AddressSanitizer + UBSan, then ThreadSanitizer
	$(Q)$(MAKE) --no-print-directory VARIANT=asan tests-built && tests/run.sh build/asan
	$(Q)$(MAKE) --no-print-directory VARIANT=tsan tests-built && tests/run.sh build/tsan

sanitize-gpu: ## run the tests of the CUDA kernels under compute-sanitizer: racecheck, memcheck, initcheck
	@$(if $(NVCC),:,echo "moebius: sanitize-gpu: nvcc is not here, so there is nothing to run" >&2; exit 1)
	$(Q)$(MAKE) --no-print-directory gpu-tests-built
	$(Q)tests/gpu/sanitize.sh $(BUILD)

fuzz: ## run every fuzz target for FUZZ_SECONDS (60) each; needs clang
	$(Q)$(MAKE) --no-print-directory VARIANT=fuzz CC=clang fuzzers-built
	$(Q)tests/fuzz.sh build/fuzz/tests $(or $(FUZZ_SECONDS),60)

install: all ## install the program, the SQLite extension, the capture script, the JSON Schemas and the H200's profile
	install -D $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/moebius
	install -D $(EXTENSION) $(DESTDIR)$(PREFIX)/lib/moebius/moebius_sqlite.so
	install -D tools/capture/moebius_capture.py $(DESTDIR)$(PREFIX)/share/moebius/moebius_capture.py
	install -D -m 644 policies/plan.schema.json $(DESTDIR)$(PREFIX)/share/moebius/plan.schema.json
	install -D -m 644 policies/hardware.schema.json $(DESTDIR)$(PREFIX)/share/moebius/hardware.schema.json
	install -D -m 644 hardware/h200.json $(DESTDIR)$(PREFIX)/share/moebius/hardware/h200.json

clean: ## remove build/
	rm -rf build

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

-include $(shell find $(BUILD) build/cuda -name '*.d' 2>/dev/null)
