//! The OpenAI-compatible server, its engine thread and the deployment door.
