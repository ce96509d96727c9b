//! Tests of `memory`, on the kernel's own formats.

use super::*;

#[test]
fn a_group_leaves_what_its_limit_leaves_and_cached_files() {
    let group = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
    assert_eq!(left_in_group(group.path()), None, "no control group");
    write("memory.max", "max\n");
    write("memory.current", "700\n");
    assert_eq!(left_in_group(group.path()), None, "no limit");
    write("memory.max", "1000\n");
    assert_eq!(left_in_group(group.path()), Some(300));
    write("memory.stat", "anon 400\nfile 300\ninactive_file 250\nactive_file 50\n");
    assert_eq!(left_in_group(group.path()), Some(550));
    write("memory.current", "1100\n");
    assert_eq!(left_in_group(group.path()), Some(150));
}

#[test]
fn lines_of_the_kernel_are_read_by_their_whole_name() {
    let meminfo = "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n";
    assert_eq!(field(meminfo, "MemAvailable:"), Some(8192));
    assert_eq!(field(meminfo, "Mem"), None);
}
