//! File events of the inbox. They only shorten the wait: the periodic scan is the truth, and where events are lost
//! (a queue that overflows, a folder beyond the system's limit, another system than Linux) files settle as ever.
//!
//! What matters of a file is its last event: it was renamed in, it was closed by its writer, or it was written to
//! since, which takes back the other two.

use anyhow::Result;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

/// What an event says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It came under this name by a rename: it is complete.
    RenamedIn,
    /// A writer has closed it.
    Closed,
    /// It is being written.
    Written,
}

/// News of the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Of one file.
    File {
        /// Relative to `inbox/`, with `/`.
        inbox_path: String,
        /// What happened to it.
        sign: Sign,
    },
    /// Events were lost: earlier news hold no more.
    Lost,
}

/// Watches `inbox` and its folders on a thread of its own until `ending` is set. News go to `news` in their order; then
/// `wake` is called once for all that is worth a look, and says whether anybody still listens. `None` where this
/// system has no file events.
///
/// # Errors
/// The events cannot be asked for, or no thread can be started.
#[cfg(target_os = "linux")]
pub(crate) fn watch(
    inbox: &Path,
    news: SyncSender<News>,
    ending: Arc<AtomicBool>,
    wake: impl Fn() -> bool + Send + 'static,
) -> Result<Option<JoinHandle<()>>> {
    linux::watch(inbox, news, ending, wake).map(Some)
}

/// See the Linux one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn watch(
    _: &Path,
    _: SyncSender<News>,
    _: Arc<AtomicBool>,
    _: impl Fn() -> bool + Send + 'static,
) -> Result<Option<JoinHandle<()>>> {
    Ok(None)
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{News, Sign};
    use crate::inbox::MAX_DEPTH;
    use anyhow::{Context, Result};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    use rustix::io::Errno;
    use std::collections::{HashMap, HashSet};
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::SyncSender;
    use std::thread::JoinHandle;

    /// How often the thread looks whether it is to end.
    const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    const BUFFER_BYTES: usize = 16 << 10;

    pub(super) fn watch(
        inbox: &Path,
        news: SyncSender<News>,
        ending: Arc<AtomicBool>,
        wake: impl Fn() -> bool + Send + 'static,
    ) -> Result<JoinHandle<()>> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context("ask for file events")?;
        let mut watched = Watched { inotify, inbox: inbox.to_path_buf(), folders: HashMap::new() };
        watched.add("");
        let body = move || {
            let mut signed = HashSet::new();
            while !ending.load(Ordering::SeqCst) {
                let ready = poll(&mut [PollFd::new(&watched.inotify, PollFlags::IN)], Some(&POLL));
                if !matches!(ready, Ok(1..)) {
                    continue;
                }
                match watched.read(&mut signed, &news) {
                    Ok(false) => {}
                    Ok(true) if wake() => {}
                    Ok(true) | Err(_) => return,
                }
            }
        };
        std::thread::Builder::new().name("inbox-events".to_string()).spawn(body).context("start the file events")
    }

    /// The folders that are watched; each by the path of what lies in it: empty, or with a final `/`.
    struct Watched {
        inotify: OwnedFd,
        inbox: PathBuf,
        folders: HashMap<i32, String>,
    }

    impl Watched {
        /// Watches a folder and those in it. One that cannot be watched settles by the scan.
        fn add(&mut self, prefix: &str) {
            let flags = WatchFlags::MOVED_TO
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::MODIFY
                | WatchFlags::CREATE
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            let folder = self.inbox.join(prefix);
            match add_watch(&self.inotify, &folder, flags) {
                Ok(watch) => drop(self.folders.insert(watch, prefix.to_string())),
                Err(error) => {
                    tracing::debug!("the events of {} are not seen: {error}", folder.display());
                    return;
                }
            }
            if prefix.matches('/').count() >= MAX_DEPTH {
                return;
            }
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && let Some(name) = entry.file_name().to_str()
                {
                    self.add(&format!("{prefix}{name}/"));
                }
            }
        }

        /// Passes on everything that waits; true when a file may be complete. `signed` are the files whose last news
        /// said so, so that a file that is written for long is told once.
        fn read(&mut self, signed: &mut HashSet<String>, news: &SyncSender<News>) -> Result<bool> {
            let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
            let (mut worth_a_look, mut new_folders) = (false, Vec::new());
            let mut reader = Reader::new(&self.inotify, &mut buffer);
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(Errno::WOULDBLOCK) => break,
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(error).context("read file events"),
                };
                let what = event.events();
                if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                    signed.clear();
                    news.send(News::Lost)?;
                    continue;
                }
                if what.contains(ReadFlags::IGNORED) {
                    self.folders.remove(&event.wd());
                    continue;
                }
                let name = event.file_name().and_then(|name| name.to_str().ok());
                let (Some(prefix), Some(name)) = (self.folders.get(&event.wd()), name) else { continue };
                let path = format!("{prefix}{name}");
                if what.contains(ReadFlags::ISDIR) {
                    if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                        new_folders.push(format!("{path}/"));
                    }
                    continue;
                }
                let sign = match () {
                    () if what.contains(ReadFlags::MOVED_TO) => Sign::RenamedIn,
                    () if what.contains(ReadFlags::CLOSE_WRITE) => Sign::Closed,
                    () if signed.contains(&path) => Sign::Written,
                    () => continue,
                };
                match sign {
                    Sign::Written => drop(signed.remove(&path)),
                    Sign::RenamedIn | Sign::Closed => {
                        signed.insert(path.clone());
                        worth_a_look = true;
                    }
                }
                news.send(News::File { inbox_path: path, sign })?;
            }
            new_folders.iter().for_each(|prefix| self.add(prefix));
            Ok(worth_a_look)
        }
    }
}
