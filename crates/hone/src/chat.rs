//! `hone chat`: talk to the served model in the terminal. Answers stream; Ctrl-C stops an answer and keeps what came, and at
//! the prompt it ends the program.

use crate::client::Client;
use crate::commands::roles::key_from_env;
use crate::output;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flags of `hone chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Base URL of the server (default: this workspace's own).
    #[arg(long)]
    url: Option<String>,
    /// Ask one question, print the answer, end.
    #[arg(long, short)]
    message: Option<String>,
    /// A system message.
    #[arg(long)]
    system: Option<String>,
    /// Randomness; 0 = always the likeliest token.
    #[arg(long, default_value_t = 0.7)]
    temperature: f64,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 512)]
    max_tokens: u32,
}

const HELP: &str = "/reset      forget the conversation (the system message stays)
/system TEXT set the system message; without TEXT take it away
/history    show the conversation
/retry      answer the last message again
/quit       end (also Ctrl-D, or Ctrl-C at the prompt)
Ctrl-C      while an answer comes: stop it, keep what came";

/// The conversation so far.
#[derive(Debug, Default)]
struct Conversation {
    system: Option<String>,
    messages: Vec<Value>,
}

/// What a line of the user asks for.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// Nothing.
    Nothing,
    /// An answer to the conversation as it is now.
    Answer,
    /// A remark for the user.
    Remark(String),
    /// The end.
    Quit,
}

impl Conversation {
    /// Takes a line in; a command changes the conversation, any other text is a message.
    fn enter(&mut self, line: &str) -> Entry {
        let line = line.trim();
        let (command, rest) =
            line.split_once(char::is_whitespace).map_or((line, ""), |(head, rest)| (head, rest.trim()));
        match command {
            "" => Entry::Nothing,
            "/quit" | "/exit" => Entry::Quit,
            "/help" => Entry::Remark(HELP.to_string()),
            "/reset" => {
                self.messages.clear();
                Entry::Remark("a new conversation".to_string())
            }
            "/system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_string());
                Entry::Remark(if rest.is_empty() { "no system message".into() } else { "system message set".into() })
            }
            "/history" => Entry::Remark(self.to_string()),
            "/retry" => self.retry(),
            _ if command.starts_with('/') => Entry::Remark(format!("no command {command}; /help lists them")),
            _ => {
                self.messages.push(json!({"role": "user", "content": line}));
                Entry::Answer
            }
        }
    }

    fn retry(&mut self) -> Entry {
        if self.messages.is_empty() {
            return Entry::Remark("there is nothing to answer yet".to_string());
        }
        self.messages.pop_if(|last| last["role"] == "assistant");
        Entry::Answer
    }

    /// As the server takes them.
    fn to_messages(&self) -> Vec<Value> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        system.chain(self.messages.iter().cloned()).collect()
    }

    fn answered(&mut self, text: &str) {
        self.messages.push(json!({"role": "assistant", "content": text}));
    }
}

impl std::fmt::Display for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.to_messages();
        let lines = lines.iter().map(|message| {
            format!(
                "{}: {}",
                message["role"].as_str().unwrap_or_default(),
                message["content"].as_str().unwrap_or_default()
            )
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Ctrl-C while an answer comes.
struct Interrupt {
    asked: Arc<AtomicBool>,
    /// Ctrl-C ends the program.
    at_prompt: Arc<AtomicBool>,
}

impl Interrupt {
    fn watch() -> Result<Interrupt> {
        let interrupt = Interrupt { asked: Arc::default(), at_prompt: Arc::new(AtomicBool::new(true)) };
        let signal = signal_hook::consts::SIGINT;
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupt.at_prompt))
            .context("watch Ctrl-C")?;
        signal_hook::flag::register(signal, Arc::clone(&interrupt.asked)).context("watch Ctrl-C")?;
        Ok(interrupt)
    }
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &ChatArgs) -> Result<()> {
    let url = match &args.url {
        Some(url) => url.trim_end_matches('/').trim_end_matches("/v1").to_string(),
        None => format!("http://{}", ws.config()?.serve.listen),
    };
    let key = key_from_env("HONE_READ_KEY").or_else(|| key_from_env("HONE_ADMIN_KEY"));
    let client = Client::new(&url, key);
    let model = client.model().with_context(|| format!("talk to {url} (is `hone up` running?)"))?;
    let mut conversation = Conversation { system: args.system.clone(), messages: Vec::new() };
    let interrupt = Interrupt::watch()?;
    if let Some(message) = &args.message {
        conversation.messages.push(json!({"role": "user", "content": message}));
        let (reply, _) = answer(&client, &model, &conversation, args, &interrupt, ws.json)?;
        if ws.json {
            output::json(&json!({"text": reply.text, "system_fingerprint": reply.fingerprint}));
        }
        return Ok(());
    }
    output::note(&format!("talking to {model} at {url}; /help lists commands"));
    let input = std::io::stdin();
    let prompt = if input.is_terminal() { "> " } else { "" };
    loop {
        output::part(prompt);
        let mut line = String::new();
        if input.lock().read_line(&mut line).context("read the terminal")? == 0 {
            return Ok(());
        }
        let before = conversation.messages.clone();
        match conversation.enter(&line) {
            Entry::Nothing => {}
            Entry::Quit => return Ok(()),
            Entry::Remark(text) => output::note(&text),
            Entry::Answer => match answer(&client, &model, &conversation, args, &interrupt, false) {
                Ok((reply, true)) if reply.text.is_empty() => {
                    conversation.messages = before;
                    output::note("[stopped before the first word; the message is forgotten]");
                }
                Ok((reply, stopped)) => {
                    conversation.answered(&reply.text);
                    let mark = if stopped { "stopped; " } else { "" };
                    output::note(&format!("[{mark}{}]", reply.fingerprint));
                }
                Err(error) => {
                    // A new message is no part of it, a message that was to be answered again stays with its answer.
                    conversation.messages = before;
                    output::error(&format!("failed to {error:#}"));
                }
            },
        }
    }
}

/// Streams an answer, to the terminal unless `is_silent`; true when Ctrl-C stopped it.
fn answer(
    client: &Client,
    model: &str,
    conversation: &Conversation,
    args: &ChatArgs,
    interrupt: &Interrupt,
    is_silent: bool,
) -> Result<(crate::client::Reply, bool)> {
    let body = json!({
        "model": model, "messages": conversation.to_messages(), "stream": true,
        "temperature": args.temperature, "max_tokens": args.max_tokens,
    });
    interrupt.asked.store(false, Ordering::SeqCst);
    interrupt.at_prompt.store(false, Ordering::SeqCst);
    let mut show = |text: &str| {
        if !is_silent {
            output::part(text);
        }
    };
    let reply = client.stream(&body, &interrupt.asked, &mut show);
    interrupt.at_prompt.store(true, Ordering::SeqCst);
    let reply = reply?;
    if !is_silent {
        output::line("");
    }
    Ok((reply, interrupt.asked.load(Ordering::SeqCst)))
}

#[cfg(test)]
mod tests;
