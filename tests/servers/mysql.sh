#!/usr/bin/env bash
# Fetches MySQL, which Debian has in sid alone, into a folder of its own: its packages and all that they need, libc too,
# are unpacked there and run through their own loader. Nothing of the system changes, and no right of root is needed.
#   tests/servers/mysql.sh [FOLDER]     target/mysql unless given; FOLDER/mysqld runs the server. Does nothing where it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-target/mysql}
[[ -x $folder/mysqld ]] && exit

for tool in apt-get dpkg; do
  command -v "$tool" >/dev/null || { echo "tests/servers/mysql.sh: MySQL is fetched by $tool, which is missing" >&2; exit 1; }
done
# The mirror that this machine uses already.
mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v -- -security | head -n 1; }
if [[ -z $(mirror) ]]; then
  as_root=()
  if ((EUID != 0)); then as_root=(sudo); fi
  "${as_root[@]}" apt-get update -q
fi

echo "tests/servers/mysql.sh: fetching MySQL into $folder"
mkdir -p "$(dirname "$folder")"
# On the same disk, so that the folder appears whole or not at all.
making=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$making"' EXIT
making=$(realpath "$making")
apt=$making/apt
mkdir -p "$making/root" "$apt"/{state/lists/partial,cache/archives/partial}
: >"$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) sid main" >"$apt/sources.list"
# A list of installed packages that is empty, so that nothing of the system is counted on.
cat >"$apt/apt.conf" <<CONF
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
CONF
export APT_CONFIG=$apt/apt.conf
apt-get -q update
apt-get -q -y --download-only install mysql-server-core
for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$making/root"; done
rm -rf "$apt"

cat >"$making/mysqld" <<'RUN'
#!/bin/sh
root=$(dirname "$(realpath "$0")")/root
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries:$root/usr/lib/mysql/private" "$root/usr/sbin/mysqld" \
  --no-defaults --basedir="$root/usr" --lc-messages-dir="$root/usr/share/mysql" \
  --plugin-dir="$root/usr/lib/mysql/plugin" --secure-file-priv=NULL --mysqlx=OFF "$@"
RUN
chmod +x "$making/mysqld"
chmod 755 "$making"
"$making/mysqld" --version
mv -T "$making" "$folder"
