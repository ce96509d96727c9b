//! `hone chat` as a person uses it: Ctrl-C while an answer comes, and a server that fails.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Nothing here takes longer, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server does with one question.
enum Reply {
    /// This text, to its end.
    Whole(&'static str),
    /// This text, and then nothing more comes; the connection stays open as long as the sender does.
    Stalls(&'static str, Receiver<()>),
    /// A 500.
    Fails,
}

/// Answers questions as scripted, and tells which messages each of them had.
fn server(replies: Vec<Reply>) -> (String, Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (told, asked) = channel();
    std::thread::spawn(move || {
        let mut replies = replies.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (line, body) = read_request(&stream);
            if line.starts_with("GET") {
                respond(&mut stream, "200 OK", &json!({"data": [{"id": "m"}]}).to_string());
                continue;
            }
            tell(&told, &body);
            let Some(reply) = replies.next() else { return };
            // A stalled answer must not hold up the next one.
            std::thread::spawn(move || answer(stream, reply));
        }
    });
    (url, asked)
}

fn read_request(stream: &TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (first, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn tell(told: &Sender<Vec<String>>, body: &Value) {
    let messages = body["messages"].as_array().unwrap().iter();
    let messages = messages.map(|m| format!("{}: {}", m["role"].as_str().unwrap(), m["content"].as_str().unwrap()));
    told.send(messages.collect()).unwrap();
}

fn respond(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
}

fn answer(mut stream: TcpStream, reply: Reply) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let delta = |delta: Value| format!("data: {}\n\n", json!({"choices": [{"delta": delta}]}));
    let role = delta(json!({"role": "assistant"}));
    match reply {
        Reply::Fails => respond(&mut stream, "500 Internal Server Error", r#"{"error": {"message": "broken"}}"#),
        Reply::Whole(text) => {
            write!(stream, "{head}{role}{}data: [DONE]\n\n", delta(json!({"content": text}))).unwrap();
        }
        Reply::Stalls(text, until) => {
            write!(stream, "{head}{role}").unwrap();
            if !text.is_empty() {
                write!(stream, "{}", delta(json!({"content": text}))).unwrap();
            }
            let _ = until.recv();
        }
    }
}

/// The program with its terminal.
struct Chat {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Chat {
    fn start(url: &str) -> Chat {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
        command.args(["chat", "--url", url]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.env_remove("HONE_READ_KEY").spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Chat { child, input, output }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn read_until(&mut self, text: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).ends_with(text) {
            let mut byte = [0];
            self.output.read_exact(&mut byte).expect("the text comes");
            seen.push(byte[0]);
        }
    }

    fn press_ctrl_c(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
}

#[test]
fn ctrl_c_and_failures_leave_a_conversation_that_makes_sense() {
    let (first_open, first) = channel();
    let (second_open, second) = channel();
    let (url, asked) = server(vec![
        Reply::Stalls("", first),
        Reply::Whole("yes"),
        Reply::Fails,
        Reply::Whole("yes again"),
        Reply::Stalls("a part", second),
        Reply::Whole("fine"),
    ]);
    let mut chat = Chat::start(&url);
    let asked = || asked.recv_timeout(PATIENCE).unwrap();

    chat.say("one");
    assert_eq!(asked(), ["user: one"]);
    chat.press_ctrl_c();
    chat.say("two");
    assert_eq!(asked(), ["user: two"], "what was stopped before its first word leaves nothing");
    chat.say("/retry");
    assert_eq!(asked(), ["user: two"]);
    chat.say("/retry");
    assert_eq!(asked(), ["user: two"], "the question outlives a retry that failed");
    chat.say("three");
    assert_eq!(asked(), ["user: two", "assistant: yes again", "user: three"]);
    chat.read_until("a part");
    chat.press_ctrl_c();
    chat.say("four");
    let whole = ["user: two", "assistant: yes again", "user: three", "assistant: a part", "user: four"];
    assert_eq!(asked(), whole, "what came before the stop stays");
    chat.read_until("fine");
    let Chat { mut child, input, output } = chat;
    drop(input);
    assert!(child.wait().unwrap().success(), "the end of the input ends the program");
    drop((output, first_open, second_open));
}
