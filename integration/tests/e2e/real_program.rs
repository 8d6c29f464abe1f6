//! A real program from source: a compiler from the distribution, a context of a few thousand files, cache mounts,
//! several stages, and the result started. What is compiled is zstd, whose sources come with one of our dependencies.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use shipway_integration::{
    Result, base_image,
    command::succeed,
    stand::{Stand, write},
};

use crate::support::{build_image, ensure, on_stand, run_in_image};

const DOCKERFILE: &str = "FROM debian:local AS compile\nWORKDIR /src\nCOPY zstd/ zstd/\nCOPY main.c Makefile ./\n\
    RUN --mount=type=cache,target=/obj make -j2 OBJ=/obj && cp /obj/pack /usr/bin/pack\n\
    FROM compile AS assets\nCOPY assets/ /assets/\nRUN tar -C /assets -cf - . | pack >/assets.zst\n\
    FROM debian:local\nCOPY --from=compile /usr/bin/pack /usr/bin/pack\nCOPY --from=assets /assets.zst /assets.zst\n";

const MAKEFILE: &str = "SOURCES := $(wildcard zstd/lib/common/*.c zstd/lib/compress/*.c zstd/lib/decompress/*.c)\n\
    OBJECTS := $(SOURCES:zstd/lib/%.c=$(OBJ)/%.o) $(OBJ)/main.o\nCFLAGS := -O1 -DZSTD_DISABLE_ASM -Izstd/lib\n\
    $(OBJ)/pack: $(OBJECTS)\n\t$(CC) -o $@ $^\n$(OBJ)/%.o: zstd/lib/%.c\n\t@mkdir -p $(@D)\n\t$(CC) $(CFLAGS) -c -o $@ $<\n\
    $(OBJ)/main.o: main.c\n\t$(CC) $(CFLAGS) -c -o $@ $<\n";

const MAIN: &str = r#"#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zstd.h"
static char *all(size_t *size) {
    size_t room = 1 << 20; char *data = malloc(room); *size = 0;
    for (size_t got; (got = fread(data + *size, 1, room - *size, stdin)); )
        if ((*size += got) == room) data = realloc(data, room *= 2);
    return data;
}
int main(int argc, char **argv) {
    size_t size, out; char *data = all(&size), *result;
    if (argc > 1 && !strcmp(argv[1], "-d")) {
        size_t room = ZSTD_getFrameContentSize(data, size);
        result = malloc(room + 1); out = ZSTD_decompress(result, room, data, size);
    } else {
        size_t room = ZSTD_compressBound(size);
        result = malloc(room); out = ZSTD_compress(result, room, data, size, 3);
    }
    if (ZSTD_isError(out)) return 1;
    return fwrite(result, 1, out, stdout) != out;
}
"#;
const ASSETS: usize = 3000;

/// The C sources in the `zstd-sys` crate, as cargo has unpacked it.
fn zstd_sources(source_tree: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(source_tree);
    let metadata = succeed(&mut cargo)?.stdout;
    let metadata = serde_json::from_str::<serde_json::Value>(&metadata).unwrap_or_default();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let found = packages
        .iter()
        .find(|package| package["name"] == "zstd-sys");
    let manifest = found
        .and_then(|package| package["manifest_path"].as_str())
        .unwrap_or_default();
    Ok(Path::new(manifest).with_file_name("zstd"))
}

fn context(stand: &Stand) -> Result<PathBuf> {
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("Makefile", MAKEFILE),
        ("main.c", MAIN),
    ];
    let context = stand.context("real", &files)?;
    let zstd = context.join("zstd");
    write(&zstd.join("README"), "The sources of zstd.\n")?;
    succeed(
        Command::new("cp")
            .arg("-r")
            .arg(zstd_sources(&stand.machine.source)?.join("lib"))
            .arg(&zstd),
    )?;
    for number in 0..ASSETS {
        let text = format!("asset {number}\n").repeat(number % 97 + 1);
        write(
            &context.join(format!("assets/{}/{number}", number % 40)),
            &text,
        )?;
    }
    Ok(context)
}

#[test]
fn a_real_program_is_compiled_and_started() {
    on_stand(|stand| {
        let archive = base_image::debian(&["gcc", "libc6-dev", "make"], &stand.dir)?;
        stand.import("default", &archive)?;
        let context = context(stand)?;
        succeed(&mut build_image(stand, &context)?)?;
        let listed = run_in_image(stand, "pack -d </assets.zst | tar -t | grep -c '[0-9]$'")?;
        ensure(listed.trim() == ASSETS.to_string(), || {
            format!("{listed:?} of {ASSETS} files")
        })?;

        // One source file is changed: the cache mount has every other object.
        write(
            &context.join("main.c"),
            &MAIN.replace("size, 3)", "size, 1)"),
        )?;
        let again = succeed(&mut build_image(stand, &context)?)?;
        let compiled = again
            .stderr
            .lines()
            .filter(|line| line.contains(" -c -o "))
            .count();
        ensure(compiled == 1, || {
            format!("{compiled} files were compiled again:\n{}", again.stderr)
        })
    });
}
