// Makes the fixtures next to this file from a real Subtensor runtime: it writes random networks into the state of a development node, lets the
// runtime run epochs, and keeps what the epoch read and what it stored.
//
//   npm install --no-save @polkadot/api@16 && node drive.mjs ws://127.0.0.1:9944 [DIRECTORY]
//
// The node has to serve dev_setStorage and dev_newBlock (chopsticks does), and must hold nothing of worth: its subnets are overwritten.
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { ApiPromise, WsProvider } from '@polkadot/api';
import { hexToU8a, u8aToHex } from '@polkadot/util';

const [url, directory = '.'] = process.argv.slice(2);
const rpc = new WsProvider(url);
const api = await ApiPromise.create({ provider: rpc, noInitWarn: true });
const spec = api.runtimeVersion.specVersion.toNumber();
const storage = api.query.subtensorModule;
// Builds of spec 300 before these storages came pay no heed to open commits: such a runtime's epoch reads none.
const readsCommits = 'crv3WeightCommitsV2' in storage || 'timelockedWeightCommits' in storage;

// ---- randomness, the same in every run

let seed = 1;
function random() {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
const below = (n) => Math.floor(random() * n);
const between = (low, high) => low + below(high - low + 1);
const chance = (p) => random() < p;
const pick = (list) => list[below(list.length)];
const range = (n) => [...Array(n).keys()];
const shuffled = (list) => list.map((x) => [random(), x]).sort((a, b) => a[0] - b[0]).map(([, x]) => x);

// ---- storage

function valueType(name) {
  const type = storage[name].creator.meta.type;
  return api.registry.createLookupType(type.isMap ? type.asMap.value : type.asPlain);
}
function entry(name, keys, value) {
  return [storage[name].key(...keys), value === null ? null : u8aToHex(api.createType(valueType(name), value).toU8a())];
}
const write = (entries) => rpc.send('dev_setStorage', [entries]);
/** Values of one storage now; asked for by hand, since the library may answer from its cache. */
async function values(name, keys) {
  const names = keys.map((key) => storage[name].key(...key));
  const [{ changes }] = await rpc.send('state_queryStorageAt', [names]);
  const stored = new Map(changes);
  const bytes = (key) => hexToU8a(stored.get(key) ?? storage[name].creator.meta.fallback.toHex());
  return names.map((key) => api.createType(valueType(name), bytes(key)).toJSON());
}
const read = async (name, ...keys) => (await values(name, [keys]))[0];
const head = async () => (await api.rpc.chain.getHeader()).number.toNumber();
/** Makes one block and gives it this number. */
const makeBlock = (number) => rpc.send('dev_newBlock', [{ unsafeBlockHeight: number }]);
const hotkey = (netuid, uid) => '0x' + createHash('sha256').update(`${netuid}/${uid}`).digest('hex');
/** Rows of a double map under one subnet, by uid. */
const rows = (name, netuid, n) => values(name, range(n).map((uid) => [netuid, uid]));

// ---- a random network whose epoch is due in block `block`

function quality(n) {
  return range(n).map(() => (chance(0.2) ? 0 : random() ** 2));
}

function weightRow(i, n, shared) {
  const style = pick(['alike', 'alike', 'alike', 'alike', 'alike', 'noise', 'noise', 'few', 'self', 'self', 'none', 'zeros']);
  const targets = style === 'few' ? shuffled(range(n)).slice(0, between(1, 3)) : range(n).filter((j) => j !== i || style === 'self' || chance(0.2));
  if (style === 'none') return [];
  const raw = targets.map((j) => {
    if (style === 'self' && j === i) return 1;
    return style === 'noise' ? random() : shared[j] * (1 + 0.3 * (random() - 0.5));
  });
  const largest = Math.max(...raw, 1e-9);
  const scale = chance(0.8) ? 65535 : between(1, 65535);
  const row = targets.map((j, k) => [j, style === 'zeros' ? 0 : Math.floor((raw[k] / largest) * scale)]);
  const kept = chance(0.5) ? row.filter(([, w]) => w > 0) : row;
  return chance(0.2) ? shuffled(kept) : kept;
}

function stakes(n, validators) {
  const style = pick(['spread', 'spread', 'ties', 'whale', 'whole']);
  return range(n).map((uid) => {
    if (!validators.has(uid)) return chance(0.1) ? between(1, 1e9) : 0;
    if (style === 'ties') return pick([5e9, 5e9, 7e9]);
    if (style === 'whale' && uid === Math.min(...validators)) return 1e15;
    return style === 'whole' ? between(1, 9) * 1e9 : Math.floor(10 ** (6 + 8 * random()));
  });
}

function network(rule, block, tempo) {
  const n = chance(0.75) ? between(3, 24) : between(25, 64);
  const validators = new Set(shuffled(range(n)).slice(0, between(Math.min(n, chance(0.9) ? 3 : 1), Math.min(n, 12))));
  const shared = quality(n);
  const since = block - tempo;
  const commitReveal = chance(0.4);
  const registered = range(n).map(() => (chance(commitReveal ? 0.3 : 0.08) ? between(since - 2, block - 1) : between(0, since - 1)));
  const updated = range(n).map(() => (chance(0.12) ? between(0, since) : between(since, block - 1)));
  const permit = range(n).map((uid) => (validators.has(uid) ? chance(0.93) : chance(0.05)));
  const alphaLow = between(1638, 60000);
  return {
    n,
    stake: stakes(n, validators),
    rootStake: range(n).map((uid) => (validators.has(uid) && chance(0.1) ? between(1, 1e9) * 1000 : 0)),
    owner: chance(0.5) ? between(0, n - 1) : null,
    registered,
    lastUpdate: updated,
    permit,
    weights: range(n).map((uid) => (validators.has(uid) || chance(0.1) ? weightRow(uid, n, shared) : [])),
    bonds: range(n).map((uid) => (permit[uid] && chance(0.8) ? range(n).filter(() => chance(0.7)).map((j) => [j, between(0, 65535)]) : [])),
    commits: range(n).map((uid) => (validators.has(uid) && chance(0.5) ? range(between(1, 2)).map(() => between(Math.max(since - 3 * tempo, 0), block - 1)).sort((a, b) => a - b) : [])),
    kappa: chance(0.6) ? 32767 : pick([0, 65535, between(1, 65534)]),
    bondsPenalty: pick([0, 65535, 65535, between(1, 65534)]),
    bondsMovingAverage: chance(0.5) ? 900000 : pick([0, 1000000, between(1, 999999)]),
    yuma3: rule !== 'yuma1',
    liquid: rule === 'liquid' || (rule === 'yuma1' && chance(0.2)),
    alphaValues: chance(0.5) ? [45875, 58982] : [alphaLow, between(alphaLow, 65535)],
    steepness: chance(0.5) ? 1000 : pick([0, between(1, 3000), 4200, 10000, 32767]),
    activityCutoff: pick([5000, 5000, 20]),
    maxValidators: pick([64, 64, between(1, 6)]),
    stakeThreshold: pick([0, 0, 1e9, 6e9]),
    commitReveal,
    emission: pick([0, between(1, 1e6), between(1, 1e9) * 1000]),
  };
}

function state(netuid, tempo, net) {
  const account = (uid) => hotkey(netuid, uid);
  const perSubnet = {
    NetworksAdded: true, SubnetworkN: net.n, Tempo: tempo, Kappa: net.kappa, BondsPenalty: net.bondsPenalty,
    BondsMovingAverage: net.bondsMovingAverage, Yuma3On: net.yuma3, LiquidAlphaOn: net.liquid, AlphaValues: net.alphaValues,
    AlphaSigmoidSteepness: net.steepness, ActivityCutoff: net.activityCutoff, MaxAllowedValidators: net.maxValidators,
    CommitRevealWeightsEnabled: net.commitReveal, RevealPeriodEpochs: 1, PendingEmission: net.emission, LastUpdate: net.lastUpdate,
    ValidatorPermit: net.permit, SubnetOwnerHotkey: net.owner === null ? null : account(net.owner),
  };
  const key = (name) => name[0].toLowerCase() + name.slice(1);
  const entries = Object.entries(perSubnet).map(([name, value]) => entry(key(name), [netuid], value));
  entries.push(entry('stakeThreshold', [], net.stakeThreshold));
  for (const uid of range(net.n)) {
    entries.push(
      entry('keys', [netuid, uid], account(uid)),
      entry('uids', [netuid, account(uid)], uid),
      entry('isNetworkMember', [account(uid), netuid], true),
      entry('totalHotkeyAlpha', [account(uid), netuid], net.stake[uid]),
      entry('totalHotkeyAlpha', [account(uid), 0], net.rootStake[uid]),
      entry('blockAtRegistration', [netuid, uid], net.registered[uid]),
      entry('weights', [netuid, uid], net.weights[uid]),
      entry('bonds', [netuid, uid], net.bonds[uid]),
    );
    const commits = net.commits[uid].map((block) => [`0x${'00'.repeat(32)}`, block, 0, 0]);
    entries.push(entry('weightCommits', [netuid, account(uid)], commits.length ? commits : null));
  }
  return entries;
}

// ---- what the epoch reads and stores

const epochOf = (netuid, tempo, block) => Math.floor((block + netuid + 1) / (tempo + 1));

async function inputs(netuid, tempo, net, block) {
  const graph = (await api.call.subnetInfoRuntimeApi.getMetagraph(netuid)).toJSON();
  const open = (commit) => epochOf(netuid, tempo, block) <= epochOf(netuid, tempo, commit) + 1;
  return {
    params: {
      rules: `spec${spec}`, kappa: net.kappa, bonds_penalty: net.bondsPenalty, bonds_moving_average: net.bondsMovingAverage,
      bonds: net.yuma3 ? 'yuma3' : 'yuma1',
      liquid_alpha: net.liquid ? { low: net.alphaValues[0], high: net.alphaValues[1], steepness: net.steepness } : null,
      activity_cutoff: net.activityCutoff, stake_threshold: net.stakeThreshold, max_validators: net.maxValidators,
    },
    block, last_epoch: block - tempo, owner: net.owner, emission: await read('pendingEmission', netuid),
    stake: graph.totalStake.map(Number), permit: await read('validatorPermit', netuid),
    registered: await rows('blockAtRegistration', netuid, net.n), last_update: await read('lastUpdate', netuid),
    open_commit: net.commits.map((list) => (readsCommits && net.commitReveal ? list.find(open) ?? null : null)),
    weights: await rows('weights', netuid, net.n), bonds: await rows('bonds', netuid, net.n),
  };
}

async function outputs(netuid, n) {
  const vector = (name) => read(name, netuid);
  return {
    permit: await vector('validatorPermit'), active: await vector('active'), consensus: await vector('consensus'),
    validator_trust: await vector('validatorTrust'), incentive: await vector('incentive'), dividends: await vector('dividends'),
    emission: (await vector('emission')).map(Number), bonds: await rows('bonds', netuid, n),
  };
}

/** The smallest netuid from 2 whose epoch is due in `block`. */
function due(block, tempo) {
  let netuid = 2;
  while ((block + netuid + 1) % (tempo + 1) !== tempo) netuid += 1;
  return netuid;
}

async function drive(rule, number, epochs) {
  const tempo = between(4, 30);
  let block = (await head()) + 1;
  const netuid = due(block, tempo);
  const net = network(rule, block, tempo);
  await write(state(netuid, tempo, net));
  const cases = [];
  for (const epoch of range(epochs)) {
    const read = await inputs(netuid, tempo, net, block);
    await makeBlock(block);
    cases.push({ name: `${rule} ${number}, epoch ${epoch + 1}`, inputs: read, outputs: await outputs(netuid, net.n) });
    if (epoch + 1 < epochs) {
      block += tempo + 1;
      const shared = quality(net.n);
      const rewritten = range(net.n).filter((uid) => net.permit[uid] && chance(0.5));
      const updates = net.lastUpdate.map((old, uid) => (rewritten.includes(uid) ? block - 1 : old));
      await write([entry('lastUpdate', [netuid], updates), entry('pendingEmission', [netuid], net.emission),
        ...rewritten.map((uid) => entry('weights', [netuid, uid], weightRow(uid, net.n, shared)))]);
    }
  }
  const clean = range(net.n).flatMap((uid) => [entry('keys', [netuid, uid], null), entry('weights', [netuid, uid], null),
    entry('bonds', [netuid, uid], null), entry('weightCommits', [netuid, hotkey(netuid, uid)], null)]);
  await write([entry('networksAdded', [netuid], null), ...clean]);
  return cases;
}

if ((await head()) < 200) await makeBlock(200);
for (const [index, rule] of ['liquid', 'yuma3', 'yuma1'].entries()) {
  seed = 1000 * (index + 1);
  const cases = [];
  for (const number of range(21)) cases.push(...(await drive(rule, number + 1, number % 7 === 6 ? 3 : 1)));
  writeFileSync(`${directory}/${rule}.json`, `[\n${cases.map((c) => JSON.stringify(c)).join(',\n')}\n]\n`);
  console.log(`${rule}: ${cases.length} epochs on spec ${spec}`);
}
process.exit(0);
