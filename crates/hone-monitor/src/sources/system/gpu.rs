//! NVIDIA GPUs, as `nvidia-smi` tells them. Nothing is known of others.

use serde_json::{Value, json};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long `nvidia-smi` may take.
const TIME_LIMIT: Duration = Duration::from_millis(800);
const POLL: Duration = Duration::from_millis(10);
/// How long a reading stands, and how long an absent program is not looked for again.
const REFRESH: Duration = Duration::from_secs(5);
/// Longest output read.
const MAX_BYTES: u64 = 64 << 10;
const QUERY: &str = "--query-gpu=name,utilization.gpu,memory.used,memory.total,temperature.gpu";

#[derive(Default)]
pub(super) struct GpuReader {
    last: Option<(Instant, Value)>,
}

impl GpuReader {
    /// The GPUs, or null when nobody tells.
    pub(super) fn read(&mut self) -> Value {
        if let Some((at, value)) = &self.last
            && at.elapsed() < REFRESH
        {
            return value.clone();
        }
        let value = ask().map_or(Value::Null, |text| parse(&text));
        self.last = Some((Instant::now(), value.clone()));
        value
    }
}

/// What `nvidia-smi` prints; none when it is absent, fails or is too slow.
fn ask() -> Option<String> {
    let mut command = Command::new("nvidia-smi");
    command.args([QUERY, "--format=csv,noheader,nounits"]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if start.elapsed() < TIME_LIMIT => std::thread::sleep(POLL),
            _ => break None,
        }
    };
    if status.is_none() {
        let _ = child.kill().and_then(|()| child.wait());
    }
    let mut text = String::new();
    child.stdout.take()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    status.filter(std::process::ExitStatus::success).map(|_| text)
}

/// Lines like `NVIDIA GeForce RTX 4090, 37, 8123, 24564, 61` (MiB, degrees Celsius); `[N/A]` is not known.
fn parse(text: &str) -> Value {
    let gpu = |line: &str| -> Option<Value> {
        let mut words = line.rsplitn(5, ',').map(str::trim);
        let mut number = || words.next().map(|word| word.parse::<f64>().ok());
        let (temperature, total, used, busy) = (number()?, number()?, number()?, number()?);
        let mib = |value: Option<f64>| value.map(|mib| (mib * 1_048_576.0) as u64);
        Some(json!({
            "name": words.next()?,
            "busy": busy.map(|percent| percent / 100.0),
            "used_bytes": mib(used),
            "total_bytes": mib(total),
            "temperature_c": temperature,
        }))
    };
    Value::Array(text.lines().filter_map(gpu).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nvidia_smi_prints() {
        let text = "NVIDIA GeForce RTX 4090, 37, 8123, 24564, 61\nOdd, name, [N/A], 0, 1024, [N/A]\nnonsense\n";
        let expected = json!([
            { "name": "NVIDIA GeForce RTX 4090", "busy": 0.37, "used_bytes": 8_517_582_848_u64,
              "total_bytes": 25_757_220_864_u64, "temperature_c": 61.0 },
            { "name": "Odd, name", "busy": null, "used_bytes": 0, "total_bytes": 1_073_741_824, "temperature_c": null },
        ]);
        assert_eq!(parse(text), expected);
    }
}
