# Sourced by the other scripts: finds the checkout, creates its virtual environment and installs missing
# packages. Sets ROOT and PYTHON.

ROOT=$(cd "$(dirname "$0")/.." && pwd)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "$(basename "$0"): $*" >&2; exit 64; }

base_python() {
    for name in python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "Python 3.11 or later is needed; install it (Debian: python3 python3-venv)"
}

# setup_venv run|test: the environment with pyvmm in it; what tests need comes on top. Packages are
# installed again only when pyproject.toml or the launcher changed, or the checkout was moved.
setup_venv() {
    state="$ROOT $(cat "$ROOT/pyproject.toml" "$ROOT/scripts/pyvmm" | cksum)"
    case $(cat "$VENV/.pyvmm-stamp" 2>/dev/null) in
        "test $state" | "$1 $state") "$PYTHON" -c 'import pyvmm' 2>/dev/null && return ;;
    esac
    if ! "$PYTHON" -m pip --version 2>/dev/null | grep -q "$VENV/"; then
        say "making the virtual environment (.venv)"
        python=$(base_python)
        "$python" -m venv --clear "$VENV" ||
            die "no virtual environment could be made; install the venv module (Debian: python3-venv)"
    fi
    say "installing packages into .venv"
    extras=
    [ "$1" = run ] || extras=[test]
    "$PYTHON" -m pip install -qq --disable-pip-version-check --editable "$ROOT$extras" ||
        die "the packages could not be installed; see pip's message above"
    # The first start puts all modules that have byte code into its bundle (pyvmm/bundle.py).
    "$PYTHON" -m compileall -q "$ROOT/pyvmm" >/dev/null || true
    printf '%s' "$1 $state" >"$VENV/.pyvmm-stamp"
}

# need_packages COMMAND:PACKAGE...: Debian packages whose command (or file) is missing. Installed as root,
# else named; returns 1 when something stays missing.
need_packages() {
    missing=
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || [ -e "${pair%%:*}" ] || missing="$missing ${pair#*:}"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing$missing"
        export DEBIAN_FRONTEND=noninteractive
        [ -n "${LISTS_FETCHED-}" ] || apt-get update -qq >/dev/null 2>&1 || true
        LISTS_FETCHED=yes
        # shellcheck disable=SC2086
        apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1 && return 0
        say "apt-get could not install$missing"
    else
        say "missing:$missing; install them as root: apt-get install$missing"
    fi
    return 1
}
