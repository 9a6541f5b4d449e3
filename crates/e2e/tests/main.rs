//! What a user does, on real containers. One binary, so that it links once; every test has clusters of its own.

mod apply;
mod batch;
mod clients;
mod crash;
mod custom;
mod describe;
mod dual;
mod errors;
mod ingress;
mod join;
mod limits;
mod names;
mod network;
mod operations;
mod policies;
mod pulls;
mod relays;
mod rollouts;
mod spec;
mod stateful;
mod static_pods;
mod storage;
mod streams;
mod stress;
mod webhooks;
mod workloads;
