//! An inference host beside this one: a network namespace with an address of its own and a wire to it, where the machine
//! allows that; else the loopback. Either way its servers have their own folders and talk over TCP alone.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// This host's end of the wire and the other's.
const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";
const SSH_PORT: u16 = 2222;

/// The other host; its processes end with it.
pub struct Inference {
    /// Its address.
    pub address: String,
    /// Whether it is a host of its own, with a disk that can be full.
    pub is_apart: bool,
    /// A process in its network namespace.
    anchor: Option<Child>,
    processes: Vec<Child>,
    folder: PathBuf,
}

/// Runs the test of this name again in namespaces of its own, where that is possible, and else with nothing changed; with
/// `HONE_ADMIN_KEY` and `HONE_TWO_HOSTS` set either way.
#[track_caller]
pub fn run_apart(test: &str, key: &str) {
    let me = std::env::current_exe().unwrap();
    // Root stays root, so that an ssh server can run.
    let is_root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if is_root { &["-nm"] } else { &["-rnm"] };
    let works = |script: &str| Command::new("unshare").args(flags).args(["sh", "-c", script]).output();
    let can = works("ip link add hone0 type veth peer name hone1 && mount -t tmpfs none /mnt && command -v nsenter");
    let mut command = match can {
        Ok(output) if output.status.success() => {
            let mut command = Command::new("unshare");
            command.args(flags).arg(me).env("HONE_TWO_HOSTS", "apart");
            command
        }
        _ => {
            let mut command = Command::new(me);
            command.env("HONE_TWO_HOSTS", "loopback");
            command
        }
    };
    let output = command.args(["--exact", test, "--nocapture"]).env("HONE_ADMIN_KEY", key).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let ran =
        told.lines().find(|line| line.contains("two hosts:")).unwrap_or_else(|| panic!("it did not run:\n{told}"));
    // Not by `println!`: it is told also where the output of tests is not shown.
    std::io::stderr().write_all(format!("{ran}\n").as_bytes()).unwrap();
}

impl Inference {
    /// Makes the host. Its files lie below `folder`.
    pub fn make(folder: &Path) -> Inference {
        let folder = folder.to_path_buf();
        if std::env::var("HONE_TWO_HOSTS").as_deref() != Ok("apart") {
            let address = "127.0.0.1".to_string();
            return Inference { address, is_apart: false, anchor: None, processes: Vec::new(), folder };
        }
        let mut anchor = Command::new("unshare");
        let anchor = anchor.args(["-n", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let pid = anchor.id().to_string();
        let (address, processes) = (THERE.to_string(), Vec::new());
        let host = Inference { address, is_apart: true, anchor: Some(anchor), processes, folder };
        wait("the other namespace", || {
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other != own)
        });
        let here = |line: &str| run(Command::new("ip").args(line.split(' ')));
        here("link set lo up");
        here(&format!("link add hone0 type veth peer name hone1 netns {pid}"));
        here(&format!("addr add {HERE}/24 dev hone0"));
        here("link set hone0 up");
        let there = |line: &str| run(host.on_it("ip").args(line.split(' ')));
        there("link set lo up");
        there(&format!("addr add {THERE}/24 dev hone1"));
        there("link set hone1 up");
        host
    }

    /// A program that will run on the host.
    pub fn on_it(&self, program: &str) -> Command {
        match &self.anchor {
            None => Command::new(program),
            Some(anchor) => {
                let mut command = Command::new("nsenter");
                command.args(["-t", &anchor.id().to_string(), "-n", "--", program]);
                command
            }
        }
    }

    /// Runs a program on it until the end.
    pub fn start(&mut self, mut command: Command, name: &str) {
        let log = std::fs::File::create(self.folder.join(format!("{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.processes.push(command.spawn().unwrap());
    }

    /// A folder of it on a disk of so many bytes; an ordinary one where it has no disk of its own.
    pub fn disk(&self, name: &str, bytes: u64) -> PathBuf {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        if self.is_apart {
            let size = format!("size={bytes}");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "hone"]).arg(&folder));
        }
        folder
    }

    /// Makes such a disk larger.
    pub fn grow(&self, disk: &Path, bytes: u64) {
        if self.is_apart {
            run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(disk));
        }
    }

    /// A remote shell to it: ssh to a server of its own where one is installed, else a stand-in. And what it is. ssh goes to
    /// the port of this machine that `line` gives for the address of the server.
    pub fn shell(&mut self, line: impl FnOnce(&str) -> u16) -> (String, &'static str) {
        let sshd = Path::new("/usr/sbin/sshd");
        if self.is_apart && rustix::process::geteuid().is_root() && sshd.exists() {
            return (self.ssh(sshd, line), "ssh");
        }
        let script = self.folder.join("rsh");
        let enter = match &self.anchor {
            Some(anchor) => format!("nsenter -t {} -n -- ", anchor.id()),
            None => String::new(),
        };
        std::fs::write(&script, format!("#!/bin/sh\nshift\nexec {enter}\"$@\"\n")).unwrap();
        run(Command::new("chmod").arg("755").arg(&script));
        (script.display().to_string(), "a stand-in for ssh")
    }

    fn ssh(&mut self, sshd: &Path, line: impl FnOnce(&str) -> u16) -> String {
        // The server's own folder, for this namespace alone.
        run(Command::new("mount").args(["-t", "tmpfs", "none", "/run"]));
        std::fs::create_dir_all("/run/sshd").unwrap();
        let [key, host_key, config] = ["key", "host_key", "sshd_config"].map(|name| self.folder.join(name));
        for key in [&key, &host_key] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key));
        }
        let text = format!(
            "ListenAddress {THERE}\nPort {SSH_PORT}\nHostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\n",
            host_key.display(),
            key.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = self.on_it(sshd.to_str().unwrap());
        command.args(["-D", "-e", "-f"]).arg(&config);
        self.start(command, "sshd");
        wait("sshd listens", || TcpStream::connect((THERE, SSH_PORT)).is_ok());
        let known = self.folder.join("known_hosts");
        let port = line(&format!("{THERE}:{SSH_PORT}"));
        format!(
            "ssh -p {port} -o HostName=127.0.0.1 -i {} -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile={}",
            key.display(),
            known.display()
        )
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().chain(&mut self.anchor) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn wait(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
