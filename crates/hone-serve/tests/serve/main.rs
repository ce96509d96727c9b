//! The server over real HTTP, with a tiny random model: the protocol, the limits, and the door.

mod chat;
mod door;
mod fixture;
mod limits;
mod manners;
mod model;
mod pause;
mod peer;
mod safety;
