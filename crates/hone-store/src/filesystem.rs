//! Network file systems, on which neither locks nor SQLite's log can be trusted.

use std::path::Path;

/// The name of the network (or FUSE) file system with this `statfs` magic number; `None` for any other.
#[must_use]
pub fn network_file_system(magic: u64) -> Option<&'static str> {
    // Sign extension on 32-bit fields must not hide a match.
    match magic & 0xFFFF_FFFF {
        0x6969 => Some("NFS"),
        0x517B => Some("SMB"),
        0xFF53_4D42 => Some("CIFS"),
        0xFE53_4D42 => Some("SMB2"),
        0x6573_5546 => Some("FUSE"),
        0x00C3_6400 => Some("Ceph"),
        0x0BD0_0BD0 => Some("Lustre"),
        0x5346_414F => Some("AFS"),
        0x4750_4653 => Some("GPFS"),
        0x0102_1997 => Some("9P"),
        _ => None,
    }
}

/// The network file system that a folder lies on; `None` when it is local or cannot be told.
pub(crate) fn network_file_system_of(path: &Path) -> Option<&'static str> {
    #[cfg(target_os = "linux")]
    {
        let info = rustix::fs::statfs(path).ok()?;
        network_file_system(info.f_type as u64)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}
