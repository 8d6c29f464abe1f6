//! Entry point of `shipway` and, under that name, of `buildctl`. Decides nothing.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(shipway::main(std::env::args_os().collect()));
    // A thread may still be reading from a terminal or pipe.
    runtime.shutdown_background();
    ExitCode::from(code)
}
