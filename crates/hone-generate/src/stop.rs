//! Stop strings in a text that comes in pieces.

/// Passes text on, holding back what may still become a stop string. What comes out does not depend on how the text was
/// cut into pieces: the stop string that is complete first counts, and of several that end together the longest.
pub(crate) struct StopScanner {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Text that belongs to the answer.
    pub(crate) text: String,
    /// Whether a stop string is complete: nothing comes after `text`.
    pub(crate) stopped: bool,
}

impl StopScanner {
    /// `stops` are not empty strings.
    pub(crate) fn new(stops: &[String]) -> StopScanner {
        debug_assert!(stops.iter().all(|stop| !stop.is_empty()));
        StopScanner { stops: stops.to_vec(), held: String::new() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Scanned {
        self.held.push_str(text);
        let matches =
            self.stops.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at)));
        if let Some((_, start)) = matches.min() {
            self.held.truncate(start);
            return Scanned { text: std::mem::take(&mut self.held), stopped: true };
        }
        let kept = self.stops.iter().map(|stop| unfinished(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Scanned { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The text ends here: what was held back belongs to it.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn unfinished(text: &str, stop: &str) -> usize {
    let beginnings = stop.char_indices().map(|(at, _)| at).rev();
    beginnings.into_iter().find(|&at| text.ends_with(&stop[..at])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
