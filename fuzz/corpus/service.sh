#!/usr/bin/env bash
# Writes the seeds of the target `service`: a byte for the settings, three for each step (`harness/service/steps.rs`).
set -euo pipefail
cd "$(dirname "$0")/service"
seed() { local name=$1; shift; printf '%s' "$@" | sed 's/../\\x&/g' | xargs -0 printf >"$name"; }

# Steps.
reports=003814 fresh=003810 again=003812 spread=003815 large=00f814 poison=003818 unheard=003804
done=060002 drain=070000 refuse=0a0001 take=0a0000 retry=0b0000 all=0c0001 discard=0c0000
look=0d0000 restart=0e0000 crash=0f0000

seed drained-and-killed 62 $reports $drain $crash $look $reports $drain $restart
seed backlog-and-restarts e6 $reports $spread $restart $reports $crash $restart $drain
seed killed-before-an-ack 66 $unheard $crash $unheard $done $crash $drain
seed one-key-again-and-again 60 $again $drain $again $crash $again $restart $drain
seed dead-letters 66 $refuse $poison $drain $crash $retry $take $all $look $crash $drain
seed discarded 66 $refuse $poison $drain $discard $restart $take $retry $crash
seed large-reports 6e $large $large $crash $drain $restart
seed full 06 $fresh $fresh $unheard $done $crash $drain
