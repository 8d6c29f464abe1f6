//! One line of comma-separated values with `"` quoting, as in `--mount=type=bind,"source=a,b"`.

/// The fields of a line.
///
/// # Errors
/// What is wrong with a quote.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    if line.is_empty() {
        return Err("EOF");
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(rest)?,
        };
        fields.push(field);
        match behind {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

fn plain_field(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let (field, behind) = match text.split_once(',') {
        Some((field, behind)) => (field, Some(behind)),
        None => (text, None),
    };
    if field.contains('"') {
        return Err("bare \" in non-quoted-field");
    }
    Ok((field.to_owned(), behind))
}

fn quoted_field(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, behind) = rest
            .split_once('"')
            .ok_or("extraneous or missing \" in quoted-field")?;
        field.push_str(part);
        if let Some(doubled) = behind.strip_prefix('"') {
            field.push('"');
            rest = doubled;
            continue;
        }
        return match behind.strip_prefix(',') {
            Some(next) => Ok((field, Some(next))),
            None if behind.is_empty() => Ok((field, None)),
            None => Err("extraneous or missing \" in quoted-field"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_commas() {
        assert_eq!(fields("a,b=c,").unwrap(), ["a", "b=c", ""]);
        assert_eq!(fields(r#""a,b",c"#).unwrap(), ["a,b", "c"]);
        assert_eq!(fields(r#""a""b""#).unwrap(), ["a\"b"]);
        for bad in ["", r#"a"b"#, r#""a"#, r#""a"b"#] {
            assert!(fields(bad).is_err(), "{bad}");
        }
    }
}
