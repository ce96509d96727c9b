//! A target whose blob folder is on this machine: files are linked, not sent.
