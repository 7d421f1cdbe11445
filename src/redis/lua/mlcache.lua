#!lua name=mlcache
local VERSION = 1001
redis.register_function{function_name = 'mlc_version', callback = function() return VERSION end, flags = {'no-writes', 'allow-cross-slot-keys'}}
