/*
 * families.c - the list of all tests. A new file of tests is named here and in CMakeLists.txt.
 */
#include "harness.h"

extern const test_def basic_tests[], order_tests[], group_tests[], close_tests[], retry_tests[], crash_tests[],
    outage_tests[], fault_tests[], limit_tests[], input_tests[];

/* The long ones first: what runs beside them is over when they are. */
const test_def *const families[] = {outage_tests, crash_tests, group_tests, limit_tests, close_tests, fault_tests,
                                    basic_tests,  order_tests, retry_tests, input_tests, NULL};
