//! `hone chat`: talk to the served model in the terminal.

use crate::client::Client;
use crate::output;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::io::BufRead;

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

/// Runs the verb.
pub fn run(ws: &Workspace, args: &ChatArgs) -> Result<()> {
    let url = match &args.url {
        Some(url) => url.trim_end_matches("/v1").to_string(),
        None => format!("http://{}", ws.config()?.serve.listen),
    };
    let client = Client::new(&url, std::env::var("HONE_READ_KEY").ok());
    let model = client.model().with_context(|| format!("talk to {url} (is `hone up` running?)"))?;
    let mut history = start(args.system.as_deref());
    if let Some(message) = &args.message {
        history.push(json!({"role": "user", "content": message}));
        let reply = answer(&client, &model, &history, args)?;
        if ws.json {
            output::json(&json!({"text": reply.text, "system_fingerprint": reply.fingerprint}));
        }
        return Ok(());
    }
    output::note(&format!("talking to {model} at {url}; /reset, /system TEXT, /quit"));
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read the terminal")?;
        match line.trim() {
            "" => {}
            "/quit" => break,
            "/reset" => history = start(args.system.as_deref()),
            text if text.starts_with("/system") => history = start(Some(text["/system".len()..].trim())),
            text => {
                history.push(json!({"role": "user", "content": text}));
                match answer(&client, &model, &history, args) {
                    Ok(reply) => history.push(json!({"role": "assistant", "content": reply.text})),
                    Err(error) => {
                        history.pop();
                        output::error(&format!("failed to {error:#}"));
                    }
                }
            }
        }
    }
    Ok(())
}

fn start(system: Option<&str>) -> Vec<Value> {
    system.filter(|text| !text.is_empty()).map(|text| json!({"role": "system", "content": text})).into_iter().collect()
}

fn answer(client: &Client, model: &str, history: &[Value], args: &ChatArgs) -> Result<crate::client::Reply> {
    let body = json!({
        "model": model, "messages": history, "stream": true,
        "temperature": args.temperature, "max_tokens": args.max_tokens,
    });
    let reply = client.stream(&body, &mut |text| output::part(text))?;
    output::line("");
    output::note(&format!("[{}]", reply.fingerprint));
    Ok(reply)
}
