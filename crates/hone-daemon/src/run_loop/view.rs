//! What the loop tells of itself: the views in `status/`, and the answer to who asks over the control socket.

use super::Daemon;
use crate::clock::now_ms;
use crate::effects::Given;
use crate::status;
use hone_pipeline::wire::ControlReply;

impl Daemon {
    pub(super) fn write_view(&self) {
        let Given { state, config } = &self.given;
        let view = status::view(state, &self.live, &config.settings, now_ms());
        let path = self.store.layout().status().join("training_status.json");
        let levels = status::curriculum_view(state, &config.settings.curriculum, now_ms());
        let written = hone_disk::write_json(&path, &view)
            .and_then(|()| hone_disk::write_json(&path.with_file_name("curriculum_state.json"), &levels));
        if let Err(error) = written {
            tracing::warn!("the status view is old: failed to {error:#}");
        }
    }

    /// The view for somebody who asks now. The file of the configuration is looked at, not taken over: while a child has
    /// the device its values wait.
    pub(super) fn status_now(&self) -> serde_json::Value {
        let Given { state, config } = &self.given;
        let mut view = status::view(state, &self.live, &config.settings, now_ms());
        view.previews.clear();
        match (self.options.load_settings)() {
            Ok(now) => {
                (view.config_error, view.config_changes) = (None, status::config_changes(state, &now.settings.train));
            }
            Err(error) => view.config_error = Some(format!("{error:#}")),
        }
        serde_json::to_value(view).expect("the view is plain data")
    }
}

/// Who answers, and what it does where that was asked.
pub(super) fn pong(status: Option<serde_json::Value>) -> ControlReply {
    ControlReply::Pong { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_string(), status }
}
