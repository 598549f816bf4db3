//! Compiles the .proto files with protox, a protobuf compiler in Rust: nobody needs to install protoc.
use std::{env, error::Error};

use prost::Message;

/// Where the packages are, from this crate.
const ROOT: &str = "../../proto";
const FILES: [&str; 3] = [
    "chat/v1/rows.proto",
    "chat/v1/protocol.proto",
    "chat/v1/internal.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={ROOT}/{file}");
    }
    let descriptors = protox::compile(FILES, [ROOT])?;
    if env::var_os("CARGO_FEATURE_JSON").is_some() {
        pbjson_build::Builder::new()
            .register_descriptors(&descriptors.encode_to_vec())?
            // A newer client may say more than this server knows.
            .ignore_unknown_fields()
            .build(&[".chat.v1"])?;
    }
    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
