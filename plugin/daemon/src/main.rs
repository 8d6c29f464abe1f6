//! Entry point of `shipwayd`: reads the configuration, opens the store, meets traits with adapters, serves until it is told
//! to stop, and drains. It decides nothing about builds.

mod collect;
mod flags;
mod listen;
mod network;
mod repair;
mod start;
mod state;
mod sys;

use std::process::ExitCode;

use clap::Parser as _;
use shipway_config::Config;
use tracing_subscriber::EnvFilter;

use flags::CommandLine;

fn main() -> ExitCode {
    sys::keep_memory();
    let outcome = configure().and_then(|config| {
        log(&config);
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.min(8))
            .enable_all()
            .build()
            .map_err(|e| format!("starting the runtime: {e}"))?;
        runtime
            .block_on(start::run(config))
            .map_err(|e| shipway_model::Failure::from_error(&*e).to_string())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("shipwayd: {message}");
            ExitCode::FAILURE
        }
    }
}

fn configure() -> Result<Config, String> {
    let said = |e: &dyn std::error::Error| {
        let mut text = e.to_string();
        let mut cause = e.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    };
    let request = CommandLine::parse()
        .into_request(state::group_id)
        .map_err(|e| said(&e))?;
    Config::load(&request.config, request.required, &request.flags).map_err(|e| said(&e))
}

fn log(config: &Config) {
    use shipway_config::{LogFormat, LogLevel};
    let level = match config.log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        // Libraries log far more than the daemon itself: they join in at trace only.
        LogLevel::Debug => {
            "info,shipway=debug,shipwayd=debug,shipway_build=debug,shipway_source=debug,shipway_containerd=debug,shipway_session=debug"
        }
        LogLevel::Trace => "trace",
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
