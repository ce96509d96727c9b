//! Durable files: atomic writes, manifests with hashes, the blob folder.
