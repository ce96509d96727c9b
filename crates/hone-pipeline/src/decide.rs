//! `decide` and `recover`: the only places where the state of a workspace is changed on purpose. Pure.
