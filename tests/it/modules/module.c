/* A module for tests, with one command of every kind that a proxy has to tell apart. It declares the few functions of the
 * modules' interface that it uses by itself, so that it builds without the server's header. */
#include <stddef.h>
#include <string.h>

typedef struct RedisModuleCtx RedisModuleCtx;
typedef struct RedisModuleString RedisModuleString;
typedef struct RedisModuleCallReply RedisModuleCallReply;
typedef struct RedisModuleBlockedClient RedisModuleBlockedClient;
typedef int (*Command)(RedisModuleCtx *, RedisModuleString **, int);

enum { OK = 0, ERR = 1, API = 1, STATES = 4096 };

static int (*CreateCommand)(RedisModuleCtx *, const char *, Command, const char *, int, int, int);
static void (*SetModuleAttribs)(RedisModuleCtx *, const char *, int, int);
static RedisModuleCallReply *(*Call)(RedisModuleCtx *, const char *, const char *, ...);
static int (*ReplyWithCallReply)(RedisModuleCtx *, RedisModuleCallReply *);
static int (*ReplyWithSimpleString)(RedisModuleCtx *, const char *);
static int (*ReplyWithLongLong)(RedisModuleCtx *, long long);
static int (*ReplyWithError)(RedisModuleCtx *, const char *);
static int (*WrongArity)(RedisModuleCtx *);
static unsigned long long (*GetClientId)(RedisModuleCtx *);
static int (*StringToLongLong)(const RedisModuleString *, long long *);
static int (*IsKeysPositionRequest)(RedisModuleCtx *);
static void (*KeyAtPos)(RedisModuleCtx *, int);
static RedisModuleBlockedClient *(*BlockClient)(RedisModuleCtx *, Command, Command, void (*)(RedisModuleCtx *, void *),
                                                long long);

/* A read: T.GET key. */
static int get(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc != 2) return WrongArity(ctx);
    return ReplyWithCallReply(ctx, Call(ctx, "GET", "s", argv[1]));
}

/* A write: T.SET key value. */
static int set(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc != 3) return WrongArity(ctx);
    return ReplyWithCallReply(ctx, Call(ctx, "SET", "!ss", argv[1], argv[2]));
}

/* A write of as many keys as its first argument says: T.MSET count key value ... */
static int mset(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    long long count;
    int right = argc >= 2 && StringToLongLong(argv[1], &count) == OK && count >= 1 && 2 * count + 2 == argc;
    /* Valkey 9.1 asks for the keys before it checks a command, and has no client to answer then. */
    if (IsKeysPositionRequest(ctx)) {
        for (int at = 2; right && at < argc; at += 2) KeyAtPos(ctx, at);
        return OK;
    }
    if (!right) return WrongArity(ctx);
    for (int at = 2; at < argc; at += 2) Call(ctx, "SET", "!ss", argv[at], argv[at + 1]);
    return ReplyWithLongLong(ctx, count);
}

static int waited(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv, (void)argc;
    return ReplyWithSimpleString(ctx, "WAITED");
}

/* A command that blocks, and is not flagged so: T.WAIT key milliseconds. */
static int wait_for(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    long long time;
    if (argc != 3 || StringToLongLong(argv[2], &time) != OK || time < 1) return WrongArity(ctx);
    BlockClient(ctx, NULL, waited, NULL, time);
    return OK;
}

/* A command that leaves state on its connection, without keys and flags: T.STATE [number] sets it, or shows it. */
static int state(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    static long long states[STATES];
    long long *mine = &states[GetClientId(ctx) % STATES];
    if (argc == 2 && StringToLongLong(argv[1], mine) != OK) return ReplyWithError(ctx, "ERR no number");
    return ReplyWithLongLong(ctx, *mine);
}

/* A reply that is two: T.SPLIT key. */
static int split(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv, (void)argc;
    return ReplyWithSimpleString(ctx, "one\r\n+two");
}

int RedisModule_OnLoad(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv, (void)argc;
    int (*api)(const char *, void *) = (int (*)(const char *, void *))((void **)ctx)[0];
    struct {
        const char *name;
        void *function;
    } needed[] = {
        {"RedisModule_CreateCommand", &CreateCommand},
        {"RedisModule_SetModuleAttribs", &SetModuleAttribs},
        {"RedisModule_Call", &Call},
        {"RedisModule_ReplyWithCallReply", &ReplyWithCallReply},
        {"RedisModule_ReplyWithSimpleString", &ReplyWithSimpleString},
        {"RedisModule_ReplyWithLongLong", &ReplyWithLongLong},
        {"RedisModule_ReplyWithError", &ReplyWithError},
        {"RedisModule_WrongArity", &WrongArity},
        {"RedisModule_GetClientId", &GetClientId},
        {"RedisModule_StringToLongLong", &StringToLongLong},
        {"RedisModule_IsKeysPositionRequest", &IsKeysPositionRequest},
        {"RedisModule_KeyAtPos", &KeyAtPos},
        {"RedisModule_BlockClient", &BlockClient},
    };
    for (size_t at = 0; at < sizeof needed / sizeof *needed; at++) {
        if (api(needed[at].name, needed[at].function) != OK) return ERR;
    }
    SetModuleAttribs(ctx, "t", 1, API);
    struct {
        const char *name;
        Command command;
        const char *flags;
        int first, last, step;
    } commands[] = {
        {"t.get", get, "readonly fast", 1, 1, 1},  {"t.set", set, "write deny-oom", 1, 1, 1},
        {"t.mset", mset, "write getkeys-api", 0, 0, 0}, {"t.wait", wait_for, "write", 1, 1, 1},
        {"t.state", state, "", 0, 0, 0},           {"t.split", split, "readonly", 1, 1, 1},
    };
    for (size_t at = 0; at < sizeof commands / sizeof *commands; at++) {
        if (CreateCommand(ctx, commands[at].name, commands[at].command, commands[at].flags, commands[at].first,
                          commands[at].last, commands[at].step) != OK) {
            return ERR;
        }
    }
    return OK;
}
