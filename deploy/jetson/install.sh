#!/usr/bin/env bash
# Installs the edgeadapt daemon on a Jetson, or into an image of one. Running it again changes
# nothing; it starts nothing unless it is told to. Tried in folders and in a Debian root that look
# like boards. NOT RUN ON A BOARD BY US.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: install.sh [--bundle F.edge] [--key F.pub] [--prefix DIR] [--state DIR] [--gpu] [--start]
                  [--root DIR] [--any-board] [--dry-run]
       install.sh --uninstall [--prefix DIR] [--root DIR] [--dry-run]

  --bundle F.edge  the model; it becomes /etc/edgeadapt/model.edge
  --key F.pub      the public key of its maker; it becomes /etc/edgeadapt/maker.pub
  --prefix DIR     where the programs go (default: /opt/edgeadapt)
  --state DIR      where learning is kept: a folder on the data partition
                   (default: /var/lib/edgeadapt)
  --gpu            let the service use the GPU: gpu.conf, which takes back a part of its hardening
  --start          enable and start the service
  --root DIR       install into the system that lies there, by chroot
  --any-board      install on a board that is not in our table, too
  --dry-run        print each command, run none
  --uninstall      remove programs, units and built engines; learning, settings and the user stay
TEXT
}

die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

prefix=/opt/edgeadapt state=/var/lib/edgeadapt root='' bundle='' key=''
gpu='' start='' any='' dry='' uninstall=''
while [ $# -gt 0 ]; do
  case $1 in
    --bundle | --key | --prefix | --state | --root)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      printf -v "${1#--}" '%s' "$2"; shift ;;
    --gpu) gpu=yes ;;
    --start) start=yes ;;
    --any-board) any=yes ;;
    --dry-run) dry=yes ;;
    --uninstall) uninstall=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

for folder in "$prefix" "$state"; do
  [[ $folder =~ ^(/[A-Za-z0-9._-]+)+$ && ! $folder =~ /\.\.?(/|$) ]] ||
    die "a folder is an absolute path of plain characters, got '$folder'"
done
case $prefix in
  /bin | /boot | /dev | /etc | /home | /lib | /opt | /proc | /root | /run | /sbin | /sys | /tmp | \
    /usr | /usr/local | /var) die "--prefix $prefix is a folder of the system's" ;;
esac
[ -z "$root" ] || root=$(cd "$root" 2>/dev/null && pwd) || die "--root: no such folder"
[ "$root" != / ] || root=''

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
python3=${PYTHON3:-/usr/bin/python3} # the system's own: JetPack's TensorRT belongs to it
units=/etc/systemd/system
dropins=$units/edgeadapt.service.d
changes=0 # commands that were run, or would be
is_unit_changed=''

# -- what every step is made of
run() { # print a command, and run it unless this is a dry run
  changes=$((changes + 1))
  printf '+'; printf ' %q' "$@"; printf '\n'
  [ -n "$dry" ] || "$@"
}
inside() { # the words of a command that runs in the system that is installed to
  if [ -n "$root" ]; then words=(chroot "$root" "$@"); else words=("$@"); fi
}
run_inside() { inside "$@"; run "${words[@]}"; }
ask_inside() { inside "$@"; "${words[@]}"; }
put() { # put FILE PLACE: install it if it is not there as it is
  if ! cmp -s "$1" "$root$2"; then
    run install -D -m 644 "$1" "$root$2"
    changed=yes
  else
    changed=''
  fi
}
put_unit() { put "$1" "$2"; [ -z "$changed" ] || is_unit_changed=yes; }

is_running() { [ -z "$root" ] && systemctl is-active --quiet edgeadapt 2>/dev/null; }

# -- the board
check_board() {
  local name value facts chip='' jetpack='' support='' python='' l4t=''
  facts=$(PYTHONPATH=$source PYTHONDONTWRITEBYTECODE=1 \
    "$python3" -m edgeadapt.doctor.facts "${root:-/}")
  while IFS='=' read -r name value; do
    case $name in
      chip) chip=$value ;;
      jetpack) jetpack=$value ;;
      support) support=$value ;;
      python) python=$value ;;
      l4t) l4t=$value ;;
    esac
  done <<< "$facts"
  if [ -z "$chip$l4t" ] || [ -z "$support" ]; then
    [ -n "$any" ] || die "this is no board that we know (chip '$chip', L4T '$l4t'); --any-board" \
      "installs all the same, deploy/README.md has the steps for other machines"
    echo "board: not in our table"
    return
  fi
  echo "board: $chip, JetPack $jetpack (L4T $l4t)"
  [ "$support" != "CPU only" ] ||
    echo "note: TensorRT of JetPack $jetpack is too old for learning steps; everything runs" \
      "on the CPU"
  [ "$python" = "$target_python" ] ||
    echo "note: JetPack $jetpack brings Python $python, and $python3 is $target_python: its" \
      "TensorRT cannot be imported"
}

check_python() {
  [ -x "$root$python3" ] || die "$python3 is not here: apt-get install python3 python3-venv"
  target_python=$(ask_inside "$python3" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    die "$python3 does not run in ${root:-/}"
  case $target_python in
    3.1[0-9]) ;;
    *) die "$python3 is $target_python, and 3.10 or newer is needed; in a container:" \
      "deploy/container/Containerfile.cpu" ;;
  esac
  ask_inside "$python3" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$python3 has no venv module: apt-get install python3-venv"
}

# -- steps
stamp() { # what the programs are made of
  (cd "$source" &&
    find pyproject.toml edgeadapt runtimes -type f ! -name '*.pyc' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum
    echo "$target_python $prefix") | sha256sum | cut -d' ' -f1
}

install_programs() {
  local wanted extra=()
  wanted=$(stamp)
  if [ "$(cat "$root$prefix/installed" 2>/dev/null)" = "$wanted" ]; then return; fi
  if [ -n "$(ls -A "$root$prefix" 2>/dev/null)" ] && [ ! -e "$root$prefix/pyvenv.cfg" ]; then
    die "$prefix is full of something else; give another --prefix"
  fi
  # the last with wheels for Python 3.10
  [ "$target_python" != 3.10 ] || extra=('onnxruntime==1.23.2')
  # JetPack's TensorRT is in the system's folder: the environment has to see it.
  run_inside "$python3" -m venv --clear --system-site-packages "$prefix"
  run mkdir -p "$root$prefix/source"
  run cp -r "$source/pyproject.toml" "$source/README.md" "$source/LICENSE" \
    "$source/edgeadapt" "$source/runtimes" "$root$prefix/source/"
  run_inside "$prefix/bin/python" -m pip --disable-pip-version-check install \
    "$prefix/source[daemon,images]" "${extra[@]}"
  run rm -r "$root$prefix/source"
  changes=$((changes + 1))
  echo "+ echo $wanted > $root$prefix/installed"
  [ -n "$dry" ] || echo "$wanted" > "$root$prefix/installed"
}

install_user() {
  put "$source/deploy/systemd/sysusers.conf" /usr/lib/sysusers.d/edgeadapt.conf
  if ! grep -qs '^edgeadapt:' "$root/etc/passwd"; then run_inside systemd-sysusers; fi
}

install_state() {
  local folder
  for folder in "$state:700" "$state/incoming:755"; do
    if [ ! -d "$root${folder%:*}" ]; then
      run_inside install -d -o edgeadapt -g edgeadapt -m "${folder##*:}" "${folder%:*}"
    fi
  done
}

install_settings() {
  # Settings belong to the owner: those that are there stay.
  [ -e "$root/etc/edgeadapt/edgeadapt.toml" ] ||
    run install -D -m 644 "$source/deploy/systemd/edgeadapt.toml" \
      "$root/etc/edgeadapt/edgeadapt.toml"
  [ -z "$bundle" ] || put "$bundle" /etc/edgeadapt/model.edge
  [ -z "$key" ] || put "$key" /etc/edgeadapt/maker.pub
}

install_units() {
  local made
  made=$(mktemp -d)
  trap 'rm -rf "$made"' RETURN
  sed "s|/opt/edgeadapt/|$prefix/|" "$source/deploy/systemd/edgeadapt.service" \
    > "$made/edgeadapt.service"
  put_unit "$made/edgeadapt.service" "$units/edgeadapt.service"
  put_unit "$here/jetson.conf" "$dropins/jetson.conf"
  if [ "$state" != /var/lib/edgeadapt ]; then
    # The service sees it where its settings say; the mount must be there first.
    printf '[Unit]\nRequiresMountsFor=%s\n\n[Service]\nBindPaths=%s:/var/lib/edgeadapt\n' \
      "$state" "$state" > "$made/state.conf"
    put_unit "$made/state.conf" "$dropins/state.conf"
  fi
  [ -z "$gpu" ] || put_unit "$here/gpu.conf" "$dropins/gpu.conf"
  if [ -n "$is_unit_changed" ] && [ -z "$root" ]; then run systemctl daemon-reload; fi
}

start_service() {
  [ -e "$root/etc/edgeadapt/model.edge" ] || [ -n "$dry" ] ||
    die "--start: there is no /etc/edgeadapt/model.edge; give --bundle"
  if [ -n "$root" ]; then # it starts when that system does
    ask_inside systemctl is-enabled --quiet edgeadapt 2>/dev/null ||
      run_inside systemctl enable edgeadapt
  else
    if ! is_running || ! systemctl is-enabled --quiet edgeadapt 2>/dev/null; then
      run systemctl enable --now edgeadapt
    fi
  fi
}

uninstall() {
  local path
  if [ -e "$root$units/edgeadapt.service" ]; then
    if [ -n "$root" ]; then
      run_inside systemctl disable edgeadapt
    else
      run systemctl disable --now edgeadapt
    fi
  fi
  for path in "$units/edgeadapt.service" "$dropins" /usr/lib/sysusers.d/edgeadapt.conf; do
    if [ -e "$root$path" ]; then run rm -r "$root$path"; is_unit_changed=yes; fi
  done
  if [ -e "$root$prefix/pyvenv.cfg" ]; then
    run rm -r "$root$prefix"
  elif [ -e "$root$prefix" ]; then
    echo "kept: $prefix, which is no environment of Python's"
  fi
  # engines; they are built again
  if [ -e "$root/var/cache/edgeadapt" ]; then run rm -r "$root/var/cache/edgeadapt"; fi
  if [ -n "$is_unit_changed" ] && [ -z "$root" ]; then run systemctl daemon-reload; fi
  echo "kept: what was learned, the settings in /etc/edgeadapt, the answers in" \
    "/var/log/edgeadapt, and the user edgeadapt"
}

[ "$(id -u)" = 0 ] || [ -n "$dry" ] || die "needs root; --dry-run does not"
for file in "$bundle" "$key"; do
  [ -z "$file" ] || [ -r "$file" ] || die "$file cannot be read"
done
if [ -n "$uninstall" ]; then
  uninstall
else
  check_python
  check_board
  install_user
  install_state
  install_settings
  install_programs
  install_units
  [ -z "$start" ] || start_service
fi
if [ "$changes" != 0 ] && [ -z "$uninstall$start" ] && is_running; then
  echo "note: the service still runs what it started with; systemctl restart edgeadapt"
fi
if [ "$changes" = 0 ]; then
  echo "nothing to do"
elif [ -n "$dry" ]; then
  echo "dry run: nothing was done"
fi
if [ -z "$uninstall$dry$start" ] && [ "$changes" != 0 ]; then
  echo "next: $prefix/bin/edgeadapt doctor --self-test --state $state/state &&" \
    "$prefix/bin/edgeadapt serve /etc/edgeadapt/edgeadapt.toml --check, then install.sh --start"
fi
