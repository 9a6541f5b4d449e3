//! How the binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // At a fixed place: else each process writes three megabytes of addresses when it starts, and there is a shim for every
    // pod. The stack, the heap and the libraries are where chance puts them all the same.
    println!("cargo:rustc-link-arg-bin=timonel=-no-pie");
}
