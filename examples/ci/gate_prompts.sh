#!/usr/bin/env bash
# Compare changed prompt files with their version at a git revision: gate_prompts.sh REVISION FILE...
# Settings come from the environment: TASK (task file), MODEL, and optionally BASE_URL (the model's endpoint, if not the
# provider's), MARGIN, BUDGET and OUT, a folder for a Markdown summary (gate.md) and JUnit XML.
# Exit code: that of the worst file; 0 passed, 3 worse, 4 undecided. 2: the revision is unknown.
set -uo pipefail

revision=$1
shift
# Without this check every file would seem new, and pass.
if ! git rev-parse --verify --quiet "$revision^{commit}" > /dev/null; then
    echo "error: git does not know the revision '$revision': fetch it first (in a GitHub Action, fetch-depth: 0)" >&2
    exit 2
fi
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
: > "$out/gate.md"
worst=0
number=0
for file in "$@"; do
    number=$((number + 1))
    old="$out/old/$file"
    mkdir -p "$(dirname "$old")"
    if ! git show "$revision:./$file" > "$old" 2> /dev/null; then
        echo "$file is new: there is nothing to compare it with" | tee -a "$out/gate.md"
        continue
    fi
    promptopt gate "$old" "$file" --task "$TASK" --model "$MODEL" ${BASE_URL:+--base-url "$BASE_URL"} --quiet \
        --margin "${MARGIN:-0.02}" ${BUDGET:+--budget "$BUDGET"} \
        --markdown "$out/part.md" --junit "$out/gate-$number.xml"
    code=$?
    if [ "$code" -ne 0 ] && [ "$code" -ne 3 ] && [ "$code" -ne 4 ]; then
        exit "$code" # an error, not a decision
    fi
    { echo "### \`$file\`"; echo; cat "$out/part.md"; echo; } >> "$out/gate.md"
    # 3, "worse", counts more than 4, "undecided".
    if [ "$code" -eq 3 ] || { [ "$code" -eq 4 ] && [ "$worst" -eq 0 ]; }; then
        worst=$code
    fi
done
exit "$worst"
