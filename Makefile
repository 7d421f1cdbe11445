# mlcache: build, install and test.
#
#   make                 the library, against the pg_config of PATH (or PG_CONFIG=...)
#   make install         library, control file and install script
#   make installcheck    sql/ and test/isolation/ against a running server (its
#                        Redis named by MLC_REDIS_URL)
#   make check-regress   the same against a private server and a private Redis
#   test/check           everything

MODULE_big = mlcache
EXTENSION = mlcache
DATA = $(sort mlcache--1.0.sql $(notdir $(wildcard $(mlc_top)/mlcache--*.sql))) \
	contrib/prometheus/mlcache_queries.yaml

# PGXS sets srcdir only once it is included; VPATH builds work all the same.
mlc_top := $(if $(VPATH),$(VPATH),.)
mlc_path = $(patsubst $(mlc_top)/%,%,$(wildcard $(mlc_top)/$(1)))

# The generated texts may lie in src/ already.
OBJS := $(sort $(patsubst %.c,%.o,$(call mlc_path,src/*/*.c) src/mlcache.c) \
	src/redis/script_text.o src/audit/report_text.o)
mlc_lua := $(sort $(call mlc_path,src/redis/lua/*.lua))

ifdef VPATH
$(shell mkdir -p $(dir $(OBJS)))
endif

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config
mlc_pkg = $(shell $(PKG_CONFIG) $(1) 2>/dev/null)

hiredis_cflags := $(call mlc_pkg,--cflags hiredis)
hiredis_libs := $(or $(call mlc_pkg,--libs hiredis),-lhiredis)

# TLS needs hiredis 1.x, which brings its own library for it.
ifeq ($(call mlc_pkg,--exists 'hiredis >= 1' hiredis_ssl openssl && echo yes),yes)
hiredis_cflags += -DMLC_USE_HIREDIS_SSL $(call mlc_pkg,--cflags hiredis_ssl openssl)
hiredis_libs := $(call mlc_pkg,--libs hiredis_ssl openssl) $(hiredis_libs)
endif

PG_CPPFLAGS = -I$(srcdir)/src $(hiredis_cflags)
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter $(clang_cflags) -MMD -MP
SHLIB_LINK = $(hiredis_libs)

# PGXS hands on the flags of the compiler PostgreSQL was built with, and its
# headers say gnu_printf; clang does not know all of gcc's and would refuse
# them under -Werror.
clang_cflags = $(if $(findstring clang,$(shell $(CC) --version 2>/dev/null)), \
	-Wno-unknown-warning-option -Wno-ignored-optimization-argument \
	-Wno-ignored-attributes)

# Bitcode would serve inlining into JIT code only, and would tie the build to
# the very clang PostgreSQL was built with.
override with_llvm = no

REGRESS = $(sort $(basename $(notdir $(wildcard $(mlc_top)/sql/*.sql))))
REGRESS_OPTS = --inputdir=$(srcdir)
ISOLATION = $(sort $(basename $(notdir $(wildcard $(mlc_top)/test/isolation/specs/*.spec))))
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation

EXTRA_CLEAN = $(OBJS:.o=.d) src/redis/script_text.c src/audit/report_text.c

PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) not found: install postgresql-server-dev, or name it: make PG_CONFIG=/path/to/pg_config)
endif
include $(PGXS)

# A text as a C string, a line a line.  Question marks are escaped lest two of
# them make a trigraph.
mlc_as_c = { echo '/* Generated from $(1) by the Makefile: do not edit. */'; \
	  echo '\#include "$(2)"'; \
	  echo 'const char $(3)[] ='; \
	  LC_ALL=C sed -e 's/[\\"?]/\\&/g' -e 's/^/"/' -e 's/$$/\\n"/' $^; \
	  echo ';'; } > $@.tmp && mv $@.tmp $@

# mlcache.lua comes first, since FUNCTION LOAD wants its "#!lua" line at the top.
src/redis/script_text.c: $(sort $(filter %/mlcache.lua,$(mlc_lua))) $(filter-out %/mlcache.lua,$(mlc_lua))
	@test -n "$^" || { echo "no Lua text in src/redis/lua" >&2; exit 1; }
	$(call mlc_as_c,src/redis/lua,redis/script.h,mlc_script_text)

src/audit/report_text.c: $(call mlc_path,src/audit/report.html)
	@mkdir -p $(dir $@)
	$(call mlc_as_c,src/audit/report.html,audit/report.h,mlc_report_text)

-include $(wildcard $(OBJS:.o=.d))

.PHONY: check-regress
check-regress:
	$(srcdir)/test/check install regress isolation
