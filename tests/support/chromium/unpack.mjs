// SPDX-License-Identifier: Apache-2.0
// node unpack.mjs SOURCE.br TARGET: what Python's standard library cannot read, Node's can.
import { createReadStream, createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createBrotliDecompress } from 'node:zlib';

const [source, target] = process.argv.slice(2);
await pipeline(createReadStream(source), createBrotliDecompress(), createWriteStream(target));
