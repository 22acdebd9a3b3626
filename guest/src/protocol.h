/* The numbers of the wire: contributing/guest-protocol.md is their source. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#define PROTOCOL_VERSION 1u
#define AGENT_VERSION "1.0"

#define FRAME_HEAD 9u /* length, type, stream */
#define FRAME_LENGTH_MIN 5u
#define FRAME_LENGTH_MAX 1048576u
#define FRAME_WHOLE_MAX (4u + FRAME_LENGTH_MAX)
#define STREAM_CREDIT 262144u
#define NONCE_SIZE 16u

enum frame_type {
    FRAME_HELLO = 0x01,
    FRAME_WELCOME = 0x02,
    FRAME_GATE = 0x03,
    FRAME_GATED = 0x04,
    FRAME_SEAL = 0x05,
    FRAME_SEALED = 0x06,
    FRAME_PING = 0x07,
    FRAME_PONG = 0x08,
    FRAME_FREEZE = 0x09,
    FRAME_FROZEN = 0x0a,
    FRAME_THAW = 0x0b,
    FRAME_THAWED = 0x0c,
    FRAME_STILL = 0x0d,
    FRAME_STILLED = 0x0e,
    FRAME_GO = 0x0f,
    FRAME_OPEN = 0x10,
    FRAME_OPENED = 0x11,
    FRAME_DATA = 0x12,
    FRAME_EOF = 0x13,
    FRAME_CREDIT = 0x14,
    FRAME_RESIZE = 0x15,
    FRAME_SIGNAL = 0x16,
    FRAME_ITEMS = 0x17,
    FRAME_DONE = 0x18,
    FRAME_CLOSE = 0x19,
    FRAME_TYPE_LIMIT = 0x1a
};

enum channel { CHANNEL_IN = 0, CHANNEL_OUT = 1, CHANNEL_ERROR = 2 };

enum close_mode { CLOSE_DETACH = 0, CLOSE_KILL = 1 };

enum operation {
    OP_EXEC = 1,
    OP_ATTACH = 2,
    OP_PROCESSES = 3,
    OP_KILL = 4,
    OP_READ = 5,
    OP_WRITE = 6,
    OP_LIST = 7,
    OP_STAT = 8,
    OP_MKDIR = 9,
    OP_MOVE = 10,
    OP_REMOVE = 11,
    OP_CHMOD = 12,
    OP_WATCH = 13,
    OP_METRICS = 14,
    OP_INPUT = 15,
    OP_DIAL = 16,
    OP_PORTS = 17,
    OP_MOUNT = 18,
    OP_UNMOUNT = 19,
    OP_LIMIT = 20
};

enum tag {
    TAG_ERRNO = 0x01,
    TAG_MESSAGE = 0x02,
    TAG_AGENT = 0x03,
    TAG_GATE_OPEN = 0x04,
    TAG_KERNEL = 0x05,
    TAG_ENTROPY = 0x06,
    TAG_CLOCK_NS = 0x07,
    TAG_HOSTNAME = 0x08,
    TAG_MACHINE_ID = 0x09,
    TAG_NET_ADDRESS = 0x0a,
    TAG_NET_GATEWAY = 0x0b,
    TAG_NET_DNS = 0x0c,
    TAG_NET_MAC = 0x0d,
    TAG_SPENT_US = 0x0e,
    TAG_ITEM = 0x0f,
    TAG_FRESH = 0x10,
    TAG_HOOK_MS = 0x11,
    TAG_BOOT_ID = 0x12,
    TAG_CLOCK_STEP_US = 0x13,
    TAG_CLOCK_BACK = 0x14,
    TAG_HOOKS_RUN = 0x15,
    TAG_HOOKS_FAILED = 0x16,
    TAG_ENTROPY_BYTES = 0x17,

    TAG_PROCESS_ID = 0x20,
    TAG_ARG = 0x21,
    TAG_SHELL = 0x22,
    TAG_CWD = 0x23,
    TAG_ENV = 0x24,
    TAG_USER = 0x25,
    TAG_TIMEOUT_MS = 0x26,
    TAG_STDIN = 0x27,
    TAG_ROWS = 0x28,
    TAG_COLS = 0x29,
    TAG_DETACHED = 0x2a,
    TAG_PID = 0x2b,
    TAG_EXIT_CODE = 0x2c,
    TAG_DURATION_US = 0x2d,
    TAG_TIMED_OUT = 0x2e,
    TAG_SIGNAL_NUMBER = 0x2f,
    TAG_COMMAND = 0x30,
    TAG_STARTED_NS = 0x31,
    TAG_RUNNING = 0x32,
    TAG_TTY = 0x33,
    TAG_QUIET = 0x34,
    TAG_LAST = 0x35,

    TAG_PATH = 0x40,
    TAG_TARGET = 0x41,
    TAG_FILE_MODE = 0x42,
    TAG_OFFSET = 0x43,
    TAG_LENGTH = 0x44,
    TAG_DEPTH = 0x45,
    TAG_RECURSIVE = 0x46,
    TAG_NOFOLLOW = 0x47,
    TAG_NAME = 0x48,
    TAG_KIND = 0x49,
    TAG_SIZE = 0x4a,
    TAG_MODE = 0x4b,
    TAG_MTIME_NS = 0x4c,
    TAG_UID = 0x4d,
    TAG_GID = 0x4e,
    TAG_LINK = 0x4f,

    TAG_UPTIME_MS = 0x50,
    TAG_LOAD1 = 0x51,
    TAG_MEMORY_TOTAL = 0x52,
    TAG_MEMORY_AVAILABLE = 0x53,
    TAG_DISK_TOTAL = 0x54,
    TAG_DISK_FREE = 0x55,
    TAG_PROCESS_COUNT = 0x56,
    TAG_CPU_BUSY_MS = 0x57,
    TAG_EVENT = 0x58,
    TAG_CTIME_NS = 0x59,
    TAG_PORT = 0x5a,
    TAG_LOOPBACK = 0x5b,
    TAG_DRIVE = 0x5c,
    TAG_READ_ONLY = 0x5d,
    TAG_LIMIT = 0x5e
};

#endif
