# summary.awk - reads `ctest -V`, shows one line a test program, what failed in full, and at the end
# the reasons of skips and one line "N passed, N failed, N skipped". Counts are of single cases where
# a program tells them (cmocka's lines, TAP), else of programs. Exit 1 when something failed.
# -v summary=FILE also leaves the end there.

function end_of_case(id) { running[id] = ""; last[id] = "" }

function skip(id, name, reason) {
  skipped[id]++
  if (reason == "") reason = "no reason given"
  reasons[++n_reasons] = "  " program[id] ": " name ": " reason
}

function add(line) {
  print line
  if (summary) print line > summary
}

# "12: text", a line of test 12's output
/^[0-9]+: / {
  colon = index($0, ":")
  id = substr($0, 1, colon - 1)
  text = substr($0, colon + 2)
  if (lines[id] < 4000) output[id, ++lines[id]] = text
  if (match(text, /^\[ RUN +\] /)) { running[id] = substr(text, RLENGTH + 1); last[id] = ""; next }
  if (running[id] != "") {
    if (text ~ /^\[ +OK \]/) { passed[id]++; end_of_case(id) }
    else if (text ~ /^\[ +FAILED +\]/ || text ~ /^\[ +ERROR +\]/) { failed[id]++; end_of_case(id) }
    else if (text ~ /^\[ +SKIPPED +\]/) { skip(id, running[id], last[id]); end_of_case(id) }
    else if (text !~ /^ *$/ && text !~ /^\[/) last[id] = text
    next
  }
  if (match(text, /^ok [0-9]+ - # SKIP /)) skip(id, "pending", substr(text, RLENGTH + 1))
  else if (text ~ /^ok [0-9]+( |$)/) passed[id]++
  else if (text ~ /^not ok [0-9]+( |$)/) failed[id]++
  else if (text ~ /^(SKIPPED|SKIP):/) { whole[id] = text; sub(/^[A-Z]+: */, "", whole[id]) }
  next
}

/^      Start +[0-9]+: / {
  id = $2; sub(/:$/, "", id)
  program[id] = $3
  next
}

# " 3/12 Test  #3: core.window_test ....   Passed    0.02 sec"
/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
  match($0, /#[0-9]+:/)
  id = substr($0, RSTART + 1, RLENGTH - 2)
  ended[id] = 1
  if ($0 ~ / Passed +[0-9.]+ sec/) {
    if (!passed[id] && !failed[id] && !skipped[id]) passed[id] = 1
    print
  } else if ($0 ~ /\*\*\*Skipped/) {
    if (!skipped[id]) skip(id, "all", whole[id])
    print
  } else {
    if (!failed[id]) failed[id] = 1 # a crash, a time-out, a sanitizer's report
    for (i = 1; i <= lines[id]; i++) print "    " output[id, i]
    print
    failures[++n_failures] = "  " $0
  }
  for (i = 1; i <= lines[id]; i++) delete output[id, i]
  total_passed += passed[id]; total_failed += failed[id]; total_skipped += skipped[id]
  next
}

/^No tests were found/ { add("no tests were found"); total_failed++ }

END {
  for (id in program)
    if (!ended[id]) { failures[++n_failures] = "  " program[id] ": did not end"; total_failed++ }
  if (n_failures) add("failed:")
  for (i = 1; i <= n_failures; i++) add(failures[i])
  if (n_reasons) add("skipped:")
  for (i = 1; i <= n_reasons; i++) add(reasons[i])
  add((total_passed + 0) " passed, " (total_failed + 0) " failed, " (total_skipped + 0) " skipped")
  exit total_failed > 0
}
