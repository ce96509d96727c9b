//! What the server needs to know to start: typed values, already read from wherever they come from.

use hone_generate::WeightFormat;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Options of [`run`](crate::run). [`ServeOptions::new`] gives every limit its default.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of the serving host: `blobs/`, `deployments/`, `served.json`. Made when absent.
    pub root: PathBuf,
    /// The name that clients ask for. A deployment that brings another name is refused.
    pub model_name: String,
    /// Device of the engine: `cpu` or `reference`.
    pub device: String,
    /// Threads of the engine; 0 = all cores.
    pub threads: usize,
    /// How weights are held; none: as the deployment's files store them, or f32 where that cannot be held.
    pub weights: Option<WeightFormat>,
    /// Requests generated at the same time.
    pub slots: usize,
    /// Longest prompt plus answer in tokens; the model's own limit applies when it is lower, and when this is 0 (then also
    /// what `cache_bytes` holds).
    pub max_context: usize,
    /// Requests that may wait for a slot; one more is answered 429.
    pub max_queue: usize,
    /// Keys of clients and operators that are given at the start.
    pub keys: Keys,
    /// A file with the hashes of further keys; see `hone keys`. It need not exist.
    pub keys_file: Option<PathBuf>,
    /// Bytes of keys and values for all requests together; 0 = every slot can hold `max_context` tokens.
    pub cache_bytes: u64,
    /// Bytes that models with their caches may take together: while a new one is loaded beside the old one there are two,
    /// and without room for them requests wait during a switch. 0 = what the machine, its control group or its GPU has
    /// available.
    pub max_memory_bytes: u64,
    /// An answer may take this long from the arrival of its request; 0 = as long as it takes.
    pub request_timeout_ms: u64,
    /// A connection is cut when its client takes nothing of what waits for it for so long.
    pub stall_timeout_ms: u64,
    /// Largest JSON body in bytes.
    pub max_body_bytes: usize,
    /// Largest blob in bytes.
    pub max_blob_bytes: u64,
    /// Bytes of the disk that uploads leave free: what would not is refused before it comes.
    pub min_free_bytes: u64,
    /// Most choices (`n` × prompts) of one request.
    pub max_choices: usize,
    /// Answers are cut at this many tokens when the request names no limit; 0 = only the context limits.
    pub default_max_tokens: usize,
    /// Deployments kept on disk beside the serving and the previous one.
    pub keep_deployments: usize,
    /// How long running requests may go on after a stop.
    pub drain_ms: u64,
}

impl ServeOptions {
    /// Options with the default limits; keys are none.
    #[must_use]
    pub fn new(listen: SocketAddr, root: PathBuf, model_name: String) -> ServeOptions {
        ServeOptions {
            listen,
            root,
            model_name,
            device: "cpu".to_string(),
            threads: 0,
            weights: None,
            slots: 4,
            max_context: 4096,
            max_queue: 64,
            keys: Keys::default(),
            keys_file: None,
            cache_bytes: 0,
            max_memory_bytes: 0,
            request_timeout_ms: 600_000,
            stall_timeout_ms: 60_000,
            max_body_bytes: 8 << 20,
            max_blob_bytes: 64 << 30,
            min_free_bytes: 1 << 30,
            max_choices: 16,
            default_max_tokens: 0,
            keep_deployments: 2,
            drain_ms: 10_000,
        }
    }
}

/// Keys in force. With none of both kinds the server answers on loopback addresses only.
///
/// An admin key also reads. Read keys without an admin key close the door of deployments altogether.
#[derive(Clone, Default)]
pub struct Keys {
    /// Keys for `/v1`, `/models`, `/metrics`.
    pub read: Vec<String>,
    /// Keys for `/admin`.
    pub admin: Vec<String>,
}

impl Keys {
    /// True when no key of either kind is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read.is_empty() && self.admin.is_empty()
    }
}

impl fmt::Debug for Keys {
    /// Counts only: a key is never printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("read", &self.read.len()).field("admin", &self.admin.len()).finish()
    }
}

/// The usual address: `127.0.0.1:8765`.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8765);
