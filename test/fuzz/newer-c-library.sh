#!/usr/bin/env bash
# Brings Debian 13's C library into a folder, for Jazzer.js on a Debian that is older; installs nothing. From the mirror that this
# machine uses.
set -euo pipefail
folder=${TSLM_FUZZ_LIBC:-$HOME/.cache/tslm-fuzz/libc}
[ -e "$folder/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" ] && exit
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -1 | tr -d ' ' || true)
[ -n "$mirror" ] || { echo "no mirror of Debian is named in /etc/apt" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p lists/partial archives/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > sources.list
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$work/lists"
  -o "Dir::Cache=$work" -o "APT::Sandbox::User=$(id -un)")
"${apt[@]}" update
"${apt[@]}" download libc6 libstdc++6 libgcc-s1
for package in *.deb; do dpkg -x "$package" unpacked; done
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv unpacked "$folder"
