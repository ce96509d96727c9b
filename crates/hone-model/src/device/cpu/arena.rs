//! The memory behind a device's arena: zeroed pages straight from the system, in huge pages where it grants them, so that
//! products of large matrices do not spend their time on address translation.

use anyhow::{Context, Result};
use memmap2::MmapMut;

/// Numbers, all zero at first. Begins at the start of a page.
pub(super) struct Arena {
    /// Absent when empty: the system maps no empty memory.
    pages: Option<MmapMut>,
}

impl Arena {
    pub(super) fn empty() -> Arena {
        Arena { pages: None }
    }

    /// Reserves memory for `len` numbers.
    ///
    /// # Errors
    /// The system has not enough.
    pub(super) fn new(len: usize) -> Result<Arena> {
        if len == 0 {
            return Ok(Arena::empty());
        }
        let bytes = len.checked_mul(size_of::<f32>()).context("reserve more memory than can be addressed")?;
        let pages = MmapMut::map_anon(bytes).with_context(|| format!("reserve {} MB of memory", bytes / 1_000_000))?;
        // Only advice: without it everything works, a little slower.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        Ok(Arena { pages: Some(pages) })
    }

    pub(super) fn numbers(&mut self) -> &mut [f32] {
        let Some(pages) = &mut self.pages else { return &mut [] };
        // SAFETY: every pattern of bits is an f32.
        #[expect(unsafe_code, reason = "bytes of the map are read as numbers")]
        let (before, numbers, after) = unsafe { pages.align_to_mut::<f32>() };
        assert!(before.is_empty() && after.is_empty(), "a map of whole numbers begins at a page");
        numbers
    }
}
