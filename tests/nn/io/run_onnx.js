// Computes an ONNX file by ONNX Runtime: run_onnx.js MODEL INPUT OUTPUT DIM...
// Input and output are raw float32; of several outputs, one behind the other.
const fs = require('fs');
const path = require('path');
const ort = require(path.join(__dirname, '../../../build/node/node_modules/onnxruntime-node'));

async function main() {
  const [model, input, output, ...dims] = process.argv.slice(2);
  const session = await ort.InferenceSession.create(model);
  const bytes = fs.readFileSync(input);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const results = await session.run({input: new ort.Tensor('float32', values, dims.map(Number))});
  fs.writeFileSync(output, Buffer.concat(session.outputNames.map((name) => {
    const data = results[name].data;
    return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  })));
}

main().catch((error) => {
  console.log(String(error));
  process.exit(1);
});
