# Sourced by the scripts beside it: messages, retries, distribution packages, and who holds a port.
# shellcheck shell=bash

# Progress goes to stderr, so that a script's stdout stays usable by a program.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# retry ATTEMPTS COMMAND...: a registry that hiccups once must not fail a whole run.
retry() {
    local attempts=$1 attempt
    shift
    for ((attempt = 1; attempt <= attempts; attempt++)); do
        "$@" && return 0
        ((attempt < attempts)) || break
        say "attempt $attempt of $attempts failed: $1; trying again"
        sleep $((attempt * 2))
    done
    return 1
}

# Runs a command as root; sudo asks for a password then, and only then.
as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo -- "$@"
    fi
}

package_installed() {
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

# The folder of the newest PostgreSQL that the distribution installed, or nothing.
distribution_postgres() {
    local folder
    for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
        [[ -x "$folder/postgres" && -x "$folder/initdb" ]] || continue
        printf '%s\n' "$folder"
        return 0
    done
}

# The server of MariaDB or MySQL that the distribution installed, or nothing.
distribution_mysql() {
    local server
    for server in /usr/sbin/mariadbd /usr/sbin/mysqld /usr/libexec/mariadbd /usr/libexec/mysqld; do
        [[ -x "$server" ]] || continue
        printf '%s\n' "$server"
        return 0
    done
}

# The address of the Debian mirror that apt uses for this machine's own packages, or nothing.
debian_mirror() {
    # shellcheck disable=SC2016  # the dollars are apt's
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null \
        | sed -n '0,/^Debian /s/^Debian //p'
}

# install_packages PACKAGE...: installs what is missing, removes nothing (another MySQL, say), and starts nothing.
#
# Debian's packages start what they install: PostgreSQL on 5432 and MariaDB on 3306, the very ports the router wants. Two
# switches are set for the length of the installation only (both are the administrator's own, so an existing one is left
# alone): policy-rc.d keeps any service from starting, and create_main_cluster keeps PostgreSQL from making a cluster
# that would start at the next boot.
install_packages() {
    local missing=() package
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "please install ${missing[*]}: this machine has no apt-get"
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        die "please install ${missing[*]} as root (there is no sudo); on Debian, that is: apt-get install ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    # One shell, so that one trap undoes both switches and sudo asks once. Its stdout is apt's chatter: to stderr.
    as_root env DEBIAN_FRONTEND=noninteractive bash -c "$INSTALL_QUIETLY" install_packages "${missing[@]}" >&2 \
        || die "could not install ${missing[*]}; the messages above say why"
}

# shellcheck disable=SC2016  # expanded by the inner shell
INSTALL_QUIETLY='
set -euo pipefail
policy=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/scalepoint-install.conf
made=()
trap "rm -f -- \"\${made[@]}\"" EXIT
if [ ! -e "$policy" ]; then
    made+=("$policy")
    printf "#!/bin/sh\nexit 101\n" > "$policy"
    chmod 755 "$policy"
fi
made+=("$no_cluster")
mkdir -p "${no_cluster%/*}"
printf "create_main_cluster = false\n" > "$no_cluster"
apt() { timeout 600 apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 "$@"; }
apt update || echo "apt-get update failed: using the package lists at hand" >&2
apt install -y --no-install-recommends --no-remove "$@"
# On a machine that boots with systemd an installed service would start at the next boot.
if [ -d /run/systemd/system ]; then
    for package in "$@"; do
        case $package in
            pgbouncer|haproxy) systemctl disable --now "$package" || true ;;
            mariadb-server) systemctl disable --now mariadb || true ;;
        esac
    done
fi
'

# port_holder PORT: prints who listens on it, as well as this user may know; fails when nobody does.
port_holder() {
    local line
    line=$(ss -H -ltnp "sport = :$1" 2>/dev/null | head -n 1)
    [[ -n "$line" ]] || return 1
    if [[ "$line" =~ \"([^\"]+)\",pid=([0-9]+) ]]; then
        printf '%s (process %s)\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    else
        printf "another user's process (sudo ss -ltnp 'sport = :%s' names it)\n" "$1"
    fi
}
