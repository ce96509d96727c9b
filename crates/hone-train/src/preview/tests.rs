//! What previews ask.

use super::*;
use crate::testing::{PAIRS, Workspace};
use hone_data::tokenize::tokenize;
use hone_model::Dtype;
use hone_pipeline::config::ProfileSettings;

#[test]
fn a_preview_asks_exactly_what_is_trained_before_the_answer() {
    let workspace = Workspace::new(Dtype::F32);
    let file = workspace.chat_file("validation", &PAIRS);
    for name in hone_data::profile::NAMES {
        let ctx = ChatContext::from_dir(&workspace.base(), &ProfileSettings::named(name), &Default::default()).unwrap();
        let prompts = prompts(&ctx, std::slice::from_ref(&file), 4096).unwrap();
        assert_eq!(prompts.len(), MAX_PROMPTS);
        for (prompt, row) in prompts.iter().zip(hone_data::rows(&file.path, &file.schema_id).unwrap()) {
            let trained = tokenize(&ctx, &row.unwrap()).unwrap().remove(0);
            let first = trained.mask.iter().position(|trained| *trained).unwrap();
            assert_eq!(prompt.ids, trained.ids[..first], "{name}");
        }
    }
}
