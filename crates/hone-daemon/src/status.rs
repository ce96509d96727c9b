//! The view `status/training_status.json`: for scripts and the monitor, written atomically, never read back
//! by the daemon.
