//! What tests of several skills share.

use std::time::Duration;

/// Time that this thread has spent on a processor: what a busy machine does not change. From
/// `/proc/thread-self/schedstat`, whose first number is nanoseconds.
pub(crate) fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
