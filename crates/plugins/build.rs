//! Makes Rust of the messages in `proto`, without a compiler that would have to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        protox::compile(["registration.proto", "deviceplugin.proto", "podresources.proto", "dra.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
