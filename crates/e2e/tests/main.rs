//! What a user does, on real containers. One binary, so that it links once; every test has clusters of its own.

#![allow(clippy::disallowed_methods, reason = "tests see a panic by themselves")]

mod apply;
mod batch;
mod chaos;
mod claims;
mod clients;
mod crash;
mod custom;
mod describe;
mod devices;
mod dual;
mod errors;
mod fixtures;
mod gateway;
mod helm;
mod hostile;
mod huge_pages;
mod ingress;
mod join;
mod kubectl;
mod limits;
mod names;
mod network;
mod offline;
mod operations;
mod parts;
mod policies;
mod pulls;
mod relays;
mod rollouts;
mod rows;
mod runtimes;
mod services;
mod spec;
mod stateful;
mod static_pods;
mod storage;
mod streams;
mod stress;
mod webhooks;
mod why;
mod workloads;
