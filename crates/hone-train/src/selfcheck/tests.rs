//! Masks that are right, and every way in which one can be wrong.

use super::*;
use crate::rows::{self, Limits};
use crate::testing::{PAIRS, Workspace, settings};
use hone_data::tokenize::tokenize;
use hone_data::{Message, RowId};
use hone_model::Dtype;
use serde_json::Map;

fn setup() -> (Workspace, ChatContext, Row) {
    let workspace = Workspace::new(Dtype::F32);
    let ctx = ChatContext::from_dir(&workspace.base(), &Default::default(), &Map::new()).unwrap();
    let turns = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello there!"),
        ("user", "Bye"),
        ("assistant", "  See you,\nfriend."),
    ];
    let messages = turns.iter().map(|(role, content)| Message::new(role, *content)).collect();
    let row = Row { line: 1, id: RowId(1), example: Example::Chat { messages, tools: None } };
    (workspace, ctx, row)
}

#[test]
fn accepts_what_the_tokenizer_masks() {
    let (_workspace, ctx, row) = setup();
    let parts = tokenize(&ctx, &row).unwrap();
    assert_eq!(check_row(&ctx, &row, &parts), Ok(()));
}

#[test]
fn refuses_every_single_trained_prompt_token_that_is_text() {
    let (_workspace, ctx, row) = setup();
    let part = tokenize(&ctx, &row).unwrap().remove(0);
    let mut refused = 0;
    for index in 0..part.ids.len() {
        let text = ctx.tokenizer.decode(&part.ids[index..=index], true).unwrap();
        // A lone letter or a special token may well be part of an answer, too.
        if part.mask[index] || "Hellothere!Seeyou,friend.".contains(text.trim()) {
            continue;
        }
        let mut wrong = part.clone();
        wrong.mask[index] = true;
        refused += 1;
        assert!(check_row(&ctx, &row, &[wrong]).is_err(), "token {index} {text:?}");
    }
    assert!(refused >= 5, "the prompt has tokens of its own: {refused}");
}

#[test]
fn refuses_a_whole_user_turn_and_an_empty_mask() {
    let (_workspace, ctx, row) = setup();
    let part = tokenize(&ctx, &row).unwrap().remove(0);
    let all = TokenRow { mask: part.mask.iter().enumerate().map(|(i, _)| i > 0).collect(), ..part.clone() };
    assert!(check_row(&ctx, &row, &[all]).unwrap_err().contains("not text of an answer"));
    let none = TokenRow { mask: vec![false; part.ids.len()], ..part.clone() };
    assert!(check_row(&ctx, &row, &[none]).unwrap_err().contains("no token"));
    let mut first = part;
    first.mask[0] = true;
    assert!(check_row(&ctx, &row, &[first]).unwrap_err().contains("first token"));
}

#[test]
fn refuses_a_share_of_trained_tokens_outside_the_bounds() {
    let (workspace, ctx, _) = setup();
    let file = workspace.chat_file("dataset-1", &PAIRS);
    let limits = Limits { max_length: 64, overlong: settings().overlong };
    let examples = rows::load(&ctx, &[file], limits, &mut |_| {}).unwrap();
    let share = examples.num_trained_tokens() as f64 / examples.num_tokens() as f64;
    let bounds =
        |min_trained_share, max_trained_share| TrainSettings { min_trained_share, max_trained_share, ..settings() };
    check_share(&examples, &bounds(share - 0.01, share + 0.01)).unwrap();
    assert!(check_share(&examples, &bounds(share + 0.01, 1.0)).unwrap_err().is::<Refusal>());
    assert!(check_share(&examples, &bounds(0.0, share - 0.01)).unwrap_err().is::<Refusal>());
    let none = Examples::default();
    assert!(check_share(&none, &settings()).unwrap_err().to_string().contains("no token would be trained"));
}

#[test]
fn stretches_are_half_open_ranges() {
    assert_eq!(trained_stretches(&[false, true, true, false, true]), [(1, 3), (4, 5)]);
    assert!(trained_stretches(&[false, false]).is_empty());
}
