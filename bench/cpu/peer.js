// ONNX Runtime, measured beside ours: answers the commands that bench/cpu/main.cc writes, a line
// each.
//
//   model FILE BATCH DIM...     loads an ONNX model, with an input of its own         -> ok
//   run SECONDS                 repeats it for so long   -> ok, the median seconds of one pass
//   check INPUT OUTPUT DIM...   raw float32 files: our input and our results          -> ok, the
//                               relative error of ours against its own
// Anything that goes wrong is answered with "error" and the reason. Its sequential mode with all
// threads is its best.
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const folder = path.join(__dirname, '../../build/node/node_modules/onnxruntime-node');
const ort = require(folder);

const options = {
  executionMode: 'sequential',
  graphOptimizationLevel: 'all',
  interOpNumThreads: 1,
  intraOpNumThreads: Number(process.argv[2]),
};
let session = null;
let input = null;

function floats(file) {
  const bytes = fs.readFileSync(file);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

async function pass() {
  const start = process.hrtime.bigint();
  await session.run({input});
  return Number(process.hrtime.bigint() - start) / 1e9;
}

async function answer(words) {
  if (words[0] === 'model') {
    if (session) await session.release();
    session = null;
    session = await ort.InferenceSession.create(words[1], options);
    const dims = words.slice(2).map(Number);
    const values = Float32Array.from({length: dims.reduce((a, b) => a * b)}, Math.random);
    input = new ort.Tensor('float32', values, dims);
    return '';
  }
  if (words[0] === 'run') {
    await pass();
    const times = [];
    const end = Date.now() + 1000 * Number(words[1]);
    while (times.length === 0 || Date.now() < end) times.push(await pass());
    return String(times.sort((a, b) => a - b)[times.length >> 1]);
  }
  if (words[0] === 'check') {
    const mine = await session.run({
      input: new ort.Tensor('float32', floats(words[1]), words.slice(3).map(Number)),
    });
    const ours = floats(words[2]);
    let at = 0, most = 0, error = 0;
    for (const name of session.outputNames) {
      for (const value of mine[name].data) {
        most = Math.max(most, Math.abs(value));
        error = Math.max(error, Math.abs(ours[at++] - value));
      }
    }
    if (at !== ours.length) throw new Error('the results have different lengths');
    return String(error / most);
  }
  throw new Error('unknown command');
}

async function main() {
  const version = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'))).version;
  console.log('ok ONNX Runtime ' + version);
  for await (const line of readline.createInterface({input: process.stdin})) {
    try {
      console.log('ok ' + await answer(line.split(' ')));
    } catch (error) {
      console.log('error ' + String(error).split(/\s+/).join(' ').slice(0, 200));
    }
  }
}

main();
