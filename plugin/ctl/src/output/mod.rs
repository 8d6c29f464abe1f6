//! What commands print to standard output: tables, and values through templates.

mod table;
mod template;
mod value;

pub(crate) use table::Table;
pub(crate) use template::Template;
pub(crate) use value::{Value, record};

use crate::error::Error;

/// Prints text as it is.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|source| Error::Stream {
        doing: "writing to stdout",
        source,
    })
}
