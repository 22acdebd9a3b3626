// Runs cells, one a line of JSON on standard input, and tells the end of each on a descriptor of its own.
'use strict';

const fs = require('fs');
const readline = require('readline');
const repl = require('repl');
const { PassThrough } = require('stream');
const { inspect } = require('util');

const TELL = Number(process.env.PANDASTACK_TELL);
delete process.env.PANDASTACK_TELL;

// Node's own console, which nobody types at: of it the evaluation is used. In it an interrupt stops a cell.
const input = new PassThrough();
const output = new PassThrough();
output.resume();
const console_ = repl.start({
  prompt: '', input, output, terminal: false, useGlobal: true, breakEvalOnSigint: true, ignoreUndefined: true,
});
console_.on('exit', () => process.exit(0));

let settle = null;
const fail = (error) => {
  if (settle) settle({ error });
  else process.stderr.write(`${(error && error.stack) || inspect(error)}\n`);
};
// What a cell throws comes here too, not to whom asked for its evaluation.
console_._domain.removeAllListeners('error');
console_._domain.on('error', fail);
process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);
const stop = () => fail(new Error('the cell was interrupted'));

function run(code) {
  return new Promise((resolve) => {
    settle = resolve;
    console_.eval(`${code}\n`, console_.context, 'cell', (error, value) => {
      if (error) resolve({ error: error instanceof repl.Recoverable ? error.err : error });
      else resolve({ value });
    });
    // Only from here on: while a cell computes, Node stops it by itself, and with a listener it would not.
    process.on('SIGINT', stop);
  }).finally(() => {
    settle = null;
    process.removeListener('SIGINT', stop);
  });
}

function describe({ error, value }) {
  if (error !== undefined) {
    const known = error instanceof Error || (error && typeof error.stack === 'string');
    return { error: {
      ename: String(known ? error.name : typeof error),
      evalue: String(known ? error.message : inspect(error)),
      traceback: String(known ? error.stack : inspect(error)).split('\n'),
    } };
  }
  return value === undefined ? {} : { text: inspect(value) };
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    const told = describe(await run(JSON.parse(line)));
    fs.writeSync(TELL, `${JSON.stringify(told)}\n`);
  }
  process.exit(0);
})();
