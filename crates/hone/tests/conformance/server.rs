//! `hone serve`, the real binary, on a free port in an empty folder, with the scripted model deployed.

use crate::{model_folder, scripted};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use ureq::Agent;

/// Nothing here takes longer, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running process.
pub struct Server {
    pub child: Child,
    address: String,
    key: Option<String>,
    /// Everything that it logged so far.
    log: Arc<Mutex<String>>,
    pub root: TempDir,
}

/// An answer, read to its end.
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Server {
    /// With more `--set key=value`.
    pub fn start(settings: &[&str]) -> Server {
        Server::start_with(settings, &[])
    }

    /// With environment variables; `HONE_ADMIN_KEY` is used as the key of this client.
    pub fn start_with(settings: &[&str], env: &[(&str, &str)]) -> Server {
        let root = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
        command.arg("--root").arg(root.path()).args(["serve", "--listen", "127.0.0.1:0"]);
        let threads = "serve.threads=1".to_string();
        let name = format!("model_name={}", scripted::MODEL_NAME);
        for setting in [threads.as_str(), name.as_str()].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        command.env("NO_COLOR", "1").env_remove("HONE_READ_KEY").env_remove("HONE_ADMIN_KEY").envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the server tells its address").unwrap();
            if let Some((_, address)) = line.split_once("address=").filter(|_| line.contains("server ready")) {
                break address.trim().to_string();
            }
        };
        // Its log goes on; nobody reading would block it in the end.
        let log = Arc::new(Mutex::new(String::new()));
        let copy = log.clone();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| *copy.lock().unwrap() += &(line + "\n"))
        });
        let key = env.iter().find(|(name, _)| *name == "HONE_ADMIN_KEY").map(|(_, key)| (*key).to_string());
        let server = Server { child, address, key, log, root };
        let model = TempDir::new().unwrap();
        scripted::write(model.path());
        model_folder::deploy(&server, model.path(), scripted::MODEL_NAME);
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let agent =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().new_agent();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(self.url(path))
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = agent.run(request.body(body.to_vec()).unwrap()).unwrap();
        Answer { status: response.status().as_u16(), text: response.body_mut().read_to_string().unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
