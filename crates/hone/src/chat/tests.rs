//! What a line does to the conversation.

use super::*;

fn roles(conversation: &Conversation) -> String {
    let messages = conversation.to_messages();
    messages.iter().map(|message| message["role"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn lines_are_messages_and_commands_change_the_conversation() {
    let mut chat = Conversation::default();
    assert_eq!(chat.enter("  \n"), Entry::Nothing);
    assert_eq!(chat.enter("/retry"), Entry::Remark("there is nothing to answer yet".to_string()));
    assert_eq!(chat.enter("hello there\n"), Entry::Answer);
    chat.answered("hi");
    assert_eq!(chat.enter("/system Be brief. \n"), Entry::Remark("system message set".to_string()));
    assert_eq!(roles(&chat), "system user assistant");
    assert_eq!(
        chat.enter("/history"),
        Entry::Remark("system: Be brief.\nuser: hello there\nassistant: hi".to_string())
    );
    assert_eq!(chat.enter("/retry"), Entry::Answer);
    assert_eq!(roles(&chat), "system user");
    chat.answered("good day");
    assert_eq!(chat.enter("/reset"), Entry::Remark("a new conversation".to_string()));
    assert_eq!(roles(&chat), "system");
    assert_eq!(chat.enter("/system"), Entry::Remark("no system message".to_string()));
    assert_eq!(roles(&chat), "");
    assert!(matches!(chat.enter("/sistem x"), Entry::Remark(text) if text.contains("/help")));
    assert_eq!(chat.enter("/quit"), Entry::Quit);
}
